"""Reading a dataset folder that was built."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.common.files import local_folder, sha256
from datagen.dataset.manifest import MANIFEST, check_files, read_manifest
from datagen.hub.cards import CARD
from datagen.hub.fetch import download, parse_repo_id
from datagen.registry import DATASETS, find_task
from datagen.schema import arrow_schemas
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec

if TYPE_CHECKING:
    from datasets import Dataset


SHARD = re.compile(rf"r1/({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet", re.ASCII)


def _split_of(name: str) -> str | None:
    """The split of a file of the table `r1`; None for any other file."""
    match = SHARD.fullmatch(name)
    return match and match[1]


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset folder; `datasets.load_dataset` reads it too.

    `name` opens it again, from anywhere: the folder's absolute path, or USER/NAME@commit on the Hub.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]  # what made the folder: recipe, versions, proofs, and the hash of every file

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's definition."""
        return DATASETS[self.manifest["recipe"]["dataset"]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all files."""
        return str(self.manifest["fingerprint"])

    def _shards(self, split: str) -> list[Path]:
        """The files of the table `r1` of a split, which are in the folder and have the SHA-256 of the manifest.

        Raises:
            UserError: naming the first that has not.
        """
        recorded = {name: digest for name, digest in self.manifest["files"].items() if _split_of(name) == split}
        if not recorded:
            raise UserError(f"{self.folder / MANIFEST} is damaged: it names no questions of {split}")
        for name, digest in recorded.items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                raise UserError(f"{path} is damaged, or was changed since it was built: build or download it again")
        return [self.folder / name for name in recorded]

    def questions(self, split: str, tasks: list[str] | None = None) -> Dataset:
        """The rows of the table `r1` of a split, those of `tasks` alone where given, in the order of the files.

        Raises:
            UserError: where a file is not the one of the manifest, or holds something else than the dataset's rows.
        """
        from datasets import load_dataset

        paths = self._shards(split)
        check_shards(paths, self.spec)
        # Not the folder: a card may name any place as that of the data, here or on the network.
        rows = load_dataset("parquet", data_files={split: [glob.escape(str(path)) for path in paths]}, split=split)
        if tasks is None:
            return rows
        keep = [i for i, name in enumerate(rows["task"]) if name in tasks]
        return rows.select(keep)


def check_shards(paths: Sequence[Path], spec: DatasetSpec) -> None:
    """Check that files hold rows of the table `r1` of a dataset: its columns, its tasks, no id twice, images as bytes.

    Raises:
        UserError: naming the first file that does not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tasks, seen = {task.name for task in spec.tasks}, set[str]()
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                holds_rows = _has_columns(file, spec) and _has_images(file)
                ids, asked = file.read(columns=["id", "task"]).to_pydict().values() if holds_rows else ([], [])
        except (pa.ArrowException, OSError):
            holds_rows = False
        if not holds_rows or not tasks.issuperset(asked) or len(seen | {*ids}) < len(seen) + len(ids):
            raise UserError(f"{path} holds no questions of {spec.name}: build or download the dataset again")
        seen.update(ids)


def _has_columns(file: Any, spec: DatasetSpec) -> bool:
    expected = arrow_schemas(spec)["r1"]
    return bool(file.schema_arrow.equals(expected) and file.schema_arrow.metadata == expected.metadata)


def _has_images(file: Any) -> bool:
    """Whether every image of a Parquet file has bytes, and none a path, which `datasets` would open."""
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number)
        columns = {rows.column(i).path_in_schema: rows.column(i).statistics for i in range(rows.num_columns)}
        encoded, paths = columns["image.bytes"], columns["image.path"]
        if encoded is None or paths is None or (encoded.null_count, paths.null_count) != (0, rows.num_rows):
            return False
    return True


def open_dataset(name: str | Path) -> BuiltDataset:
    """The dataset built in the folder `name`, or published as USER/NAME or USER/NAME@revision, fetched for its `r1`.

    Raises:
        UserError: where there is no such folder or repository, or it holds no complete dataset.
    """
    if parse_repo_id(str(name)):
        folder, full_name = download(str(name), "dataset", (CARD, MANIFEST, "r1/*"))
    else:
        folder = local_folder(str(name))
        full_name = str(folder.resolve())
    manifest = read_manifest(folder)
    try:
        known = manifest["recipe"]["dataset"] in DATASETS
        check_files(folder, manifest, "r1/")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: build the dataset again") from error
    if not known:
        raise UserError(f"{folder} holds a dataset that this version of r1vlm does not know")
    return BuiltDataset(full_name, folder.resolve(), manifest)


def tasks_of(built: BuiltDataset, name: str) -> list[str]:
    """The names of the tasks that `name` stands for: a task, or a dataset (or `all`) for all of its tasks.

    Raises:
        UserError: for an unknown task, or one that this dataset does not ask.
    """
    own = [task.name for task in built.spec.tasks]
    if name in (built.spec.name, "all"):
        return own
    if name in DATASETS:
        raise UserError(f"{built.name} is the dataset {built.spec.name}, not {name}: name another with --data")
    if find_task(name).name not in own:
        raise UserError(f"{built.name} asks {', '.join(own)}, not {name!r}: name another dataset with --data")
    return [name]

"""Reading a dataset folder that was built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.common.files import local_folder
from datagen.dataset.manifest import MANIFEST, check_files, read_manifest
from datagen.hub.cards import CARD
from datagen.hub.fetch import download, parse_repo_id
from datagen.registry import DATASETS, find_task
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec

if TYPE_CHECKING:
    from datasets import Dataset


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

    def questions(self, split: str, tasks: list[str] | None = None) -> Dataset:
        """The rows of the table `r1` of a split, those of `tasks` alone where given, in the order of the files."""
        from datasets import load_dataset

        rows = load_dataset(str(self.folder), "r1", split=split)
        if tasks is None:
            return rows
        keep = [i for i, name in enumerate(rows["task"]) if name in tasks]
        return rows.select(keep)


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


def check_split(split: str) -> str:
    """`split`, where it is one."""
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}: take one of {', '.join(SPLITS)}")
    return split

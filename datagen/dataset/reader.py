"""Reading a dataset folder that was built."""

from __future__ import annotations

import glob
import io
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from datagen.common.code_hash import code_hash
from datagen.common.errors import UserError
from datagen.common.files import cache_folder, local_folder, sha256
from datagen.common.options import as_text
from datagen.dataset.config import DatasetConfig
from datagen.dataset.manifest import ADVICE, MANIFEST, check_files, find_built_dataset, read_manifest
from datagen.dataset.shards import damaged, read_shard
from datagen.environment import trace_of
from datagen.hub.cards import CARD
from datagen.hub.fetch import download, parse_repo_id
from datagen.interaction import IMAGE_COLUMNS, question_images
from datagen.registry import find_dataset, find_task, known_datasets
from datagen.schema import MOST_IMAGES, R1, arrow_schemas, image_columns
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, judges_of, score

if TYPE_CHECKING:
    from datasets import Dataset


PIXELS = 1 << 24  # of an image: it takes 50 MB when it is decoded
FORMATS = ("PNG", "JPEG", "WEBP")
ORIENTATION = 274  # of EXIF
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
        """The dataset's definition.

        Raises:
            UserError: where its code is not here.
        """
        return find_dataset(self.manifest["recipe"]["dataset"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes of all files."""
        return str(self.manifest["fingerprint"])

    def _shards(self, split: str) -> dict[Path, str]:
        """The files of the table `r1` of a split, each with its SHA-256, as the manifest has it.

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
        return {self.folder / name: digest for name, digest in recorded.items()}

    def first_questions(self, count: int) -> list[dict[str, Any]]:
        """The first questions of the train split, their images as mappings with their `bytes`; only they are read."""
        return first_rows(self.folder, count)

    def questions(self, split: str, tasks: list[str] | None = None) -> Dataset:
        """The rows of the table `r1` of a split, those of `tasks` alone where given, in the order of the files.

        Raises:
            UserError: where a file is not the one of the manifest, or holds something else than the dataset's rows.
        """
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()  # of the reading, which takes seconds
        shards = self._shards(split)
        if os.path.expandvars(self.folder) != str(self.folder):  # as `datasets` does
            raise UserError(f"{self.folder} has a name with a variable of the shell's in it: rename a folder")
        ids = set[str]()
        for path, digest in shards.items():
            _check_once(path, digest, self.spec, ids)
        # Not the folder: a card may name any place as that of the data. Not `load_dataset`, which counts each call at
        # s3.amazonaws.com, also where all files are here (datasets 5.2).
        rows = Dataset.from_parquet([glob.escape(str(path)) for path in shards], split=split)
        if tasks is None:
            return rows
        keep = [i for i, name in enumerate(rows["task"]) if name in tasks]
        return rows.select(keep)


def _check_once(path: Path, digest: str, spec: DatasetSpec, ids: set[str]) -> None:
    """`check_shard`, which for a file of large images takes minutes: what it found good is remembered.

    It is remembered by the SHA-256 of the file's content and by the code that checks, so that nothing else is taken for
    it; the ids are looked at each time.
    """
    judges = {task.name: judges_of(task) for task in spec.tasks}
    code = code_hash({"judges": judges, "rows": _check_row}, "datagen")
    found_good = cache_folder("checked") / f"{digest}-{spec.name}-{code[:16]}"
    if found_good.is_file():
        new = pq.read_table(path, columns=["id"])["id"].to_pylist()
        if again := ids.intersection(new):
            raise damaged(path, ValueError(f"{min(again)} is in it twice"))
        ids.update(new)
        return
    check_shard(path, spec, ids)
    with suppress(OSError):  # a cache that can't be written costs time alone
        found_good.parent.mkdir(parents=True, exist_ok=True)
        found_good.touch()


def check_shard(path: Path, spec: DatasetSpec, ids: set[str]) -> None:
    """Check that a file holds questions of a dataset, none of them with one of the `ids`; theirs are added.

    Nothing in it is null but a whole value of the ground truth, a question shows 1 to `MOST_IMAGES` images, every image
    is an upright one of `FORMATS` that has at most `PIXELS` and can be decoded, and every solution is judged and earns
    full marks.

    Raises:
        UserError: where that is not so.
    """
    rows = read_shard(path, arrow_schemas(spec)["r1"])
    try:
        with warnings.catch_warnings(action="error"):  # Pillow warns of images that are large, or not whole
            for row in rows:
                _check_row(row, spec)
                if row["id"] in ids:
                    raise ValueError(f"{row['id']} is in it twice")
                ids.add(row["id"])
    except Exception as error:  # a row may hold anything, and so may what Pillow or a reward says of it
        raise damaged(path, error) from error


def _check_row(row: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Raise an exception, of any kind, where a row is no question of a dataset."""
    images = image_columns(spec)
    others = [(name, value) for name, value in row.items() if name not in images]
    if any(_has_null(value) for name, value in others if name in R1 or value is not None):
        raise ValueError("a row has a null")
    if not 0 < len(question_images(row)) <= MOST_IMAGES:
        raise ValueError(f"{row['id']} shows {len(question_images(row))} images")
    for image in [*question_images(row), *(row[name] for name in images if name != spec.image_column)]:
        if image["path"] is not None:  # which `datasets` would open
            raise ValueError(f"the image of {row['id']} is a path")
        check_image(image["bytes"])
    if [message["role"] for message in row["prompt"]] != ["system", "user"]:
        raise ValueError(f"the prompt of {row['id']} is not a system and a user message")
    tasks = {task.name: task for task in spec.tasks}
    if row["task"] not in tasks:
        raise ValueError(f"{row['id']} is of an unknown task")
    task = tasks[row["task"]]
    if set(score(task, trace_of(task, row), row).values()) != {1.0}:
        raise ValueError(f"the solution of {row['id']} does not earn full marks")


def _has_null(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_null, value))
    return any(map(_has_null, value.values())) if isinstance(value, dict) else value is None


@lru_cache(maxsize=8)  # the questions about an image follow one another
def check_image(content: bytes) -> None:
    """Raise an exception, of any kind, where bytes are no image that `check_shard` allows."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # reads no more than the header
        if image.width * image.height > PIXELS:
            raise ValueError(f"an image of {image.width} x {image.height} pixels, more than {PIXELS}")
        image.convert("RGB")
        if image.getexif().get(ORIENTATION, 1) != 1:  # `datasets` would turn it
            raise ValueError("an image that is not upright, by its EXIF data")


def image_sizes(questions: Dataset) -> set[tuple[tuple[int, int], ...]]:
    """The sizes of the images of some questions: of each question those of its images, in order of size.

    None is decoded.
    """
    from PIL import Image

    encoded = undecoded(questions.select_columns([name for name in IMAGE_COLUMNS if name in questions.column_names]))
    return {
        tuple(sorted(Image.open(io.BytesIO(image["bytes"])).size for image in question_images(row))) for row in encoded
    }


OPENED: dict[str, BuiltDataset] = {}
"""What this process has opened that no folder holds, by its name: tasksets of verifiers."""


def open_dataset(name: str | Path) -> BuiltDataset:
    """The dataset built in the folder `name`, or published as USER/NAME or USER/NAME@revision, fetched for its `r1`.

    A taskset of verifiers is found by its name where `open_taskset` has opened it before.

    Raises:
        UserError: where there is no such folder or repository, or it holds no complete dataset.
    """
    if str(name) in OPENED:
        return OPENED[str(name)]
    if parse_repo_id(str(name)):
        folder, full_name = download(str(name), "dataset", (CARD, MANIFEST, "r1/*"))
    else:
        folder = local_folder(str(name))
        full_name = str(folder.resolve())
    manifest = read_manifest(folder)
    recipe = manifest["recipe"]
    spec = find_built_dataset(folder, manifest)
    try:
        for option in spec.options:
            option.parse(as_text(recipe["options"][option.name]))
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged (its options): {ADVICE}") from error
    check_files(folder, manifest, "r1/")
    return BuiltDataset(full_name, folder.resolve(), manifest)


def recipe_of(built: BuiltDataset) -> DatasetConfig | None:
    """The recipe that more examples of a dataset are drawn by; None where its images were not drawn."""
    if built.spec.draw is None:
        return None
    recipe = built.manifest["recipe"]
    return DatasetConfig(**{key: recipe[key] for key in ("dataset", "seed", "source", "options")})


def first_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first questions of the train split in a folder, their images as mappings with their `bytes`.

    Only they are read.
    """
    with pq.ParquetFile(min((folder / "r1").glob("train-*.parquet"))) as file:
        rows: list[dict[str, Any]] = next(file.iter_batches(batch_size=count)).to_pylist()
    return rows


def undecoded(questions: Dataset) -> Dataset:
    """Questions whose images are mappings with their `bytes`."""
    from datasets import Image, List

    if "images" in questions.column_names:
        return questions.cast_column("images", List(Image(decode=False)))
    return questions.cast_column("image", Image(decode=False))


def most_images(questions: Dataset) -> int:
    """The most images that one of some questions shows; none is decoded."""
    if "images" not in questions.column_names:
        return 1
    import pyarrow.compute as pc  # takes a fifth of the time in which a command refuses an argument

    return int(pc.max(pc.list_value_length(questions.data.column("images"))).as_py())


def tasks_of(built: BuiltDataset, name: str) -> list[str]:
    """The names of the tasks that `name` stands for: a task, or a dataset (or `all`) for all of its tasks.

    Raises:
        UserError: for an unknown task, or one that this dataset does not ask.
    """
    own = [task.name for task in built.spec.tasks]
    if name in (built.spec.name, "all"):
        return own
    if name in known_datasets():
        raise UserError(f"{built.name} is the dataset {built.spec.name}, not {name}: name another with --data")
    if find_task(name).name not in own:
        raise UserError(f"{built.name} asks {', '.join(own)}, not {name!r}: name another dataset with --data")
    return [name]

"""Building a dataset: shards drawn by an executor, then the proofs, the manifest and the card.

A folder is drawn beside its place, in `NAME.partial`, and takes its place when it is complete. A shard is written
under a temporary name and renamed, so a build that was killed goes on with the shards that are missing. In an object
store, which can't rename folders, shards are written in their place: the manifest, written last, makes it a dataset.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.common.files import invalidate_listing, is_remote, resolve_output, write_json
from datagen.common.locks import locked
from datagen.common.versions import dataset_versions
from datagen.dataset.config import DatasetConfig, Shard, list_shards
from datagen.dataset.executors import Executor, available_cores, process_executor
from datagen.dataset.manifest import (
    MANIFEST,
    check_files,
    code_mismatches,
    code_record,
    read_json,
    read_manifest,
    write_manifest,
)
from datagen.dataset.shards import draw_shard, make_questions, raw_row
from datagen.registry import errors_explained
from datagen.schema import TABLES, arrow_schemas
from datagen.sources.catalog import load_source
from datagen.sources.split import SPLITS

RECIPE = "recipe.json"  # in an unfinished build: whose shards these are
LOCK = ".lock"
TRIED = 8  # images of each split that are drawn before a build begins


def build(
    config: DatasetConfig,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
) -> Path:
    """Draw a dataset into a folder, or into an object store that an fsspec address names; returns where it is.

    `out` is `data/NAME` unless it is given. A dataset that is there already, made by the same configuration, is left as
    it is. The shards are drawn by the `executor`, or by `workers` processes (by default one a core that is ours).

    Raises:
        UserError: where the options leave nothing to draw, `out` can't be written or holds something else, another
            build is writing it, or a worker was killed.
    """
    folder = resolve_output(out or f"data/{config.dataset}")
    if not is_built(folder, config):
        _build(config, folder, executor or process_executor(workers or available_cores()))
    (folder / RECIPE).unlink(missing_ok=True)  # also that of a build that was killed in its last moment
    return folder


def is_built(folder: Path, config: DatasetConfig) -> bool:
    """Whether `folder` holds the complete dataset of this configuration; False where it holds nothing.

    Raises:
        UserError: where it holds something else, or a file of the dataset is missing.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    manifest = read_json(folder / MANIFEST)
    if manifest.get("recipe") == config.as_json():
        check_files(folder, read_manifest(folder))
        if mismatches := code_mismatches(manifest):
            raise UserError(f"{folder} was drawn by other code ({mismatches[0]}): name another --out, or delete it")
        return True
    if is_remote(folder) and not manifest and (folder / RECIPE).exists():
        return False
    raise UserError(f"{folder} already holds something else: name another folder with --out, or delete it")


def _build(config: DatasetConfig, folder: Path, executor: Executor) -> None:
    with errors_explained(config.dataset):
        for split in SPLITS:  # options that leave a split too few words end here, before anything is written
            make_questions(config.spec, [raw_row(config, split, index) for index in range(TRIED)])
    partial_folder = begin_folder(folder)
    with nullcontext() if partial_folder == folder else locked(partial_folder / LOCK, _busy(partial_folder)):
        ours = {"recipe": config.as_json(), "versions": dataset_versions(), **code_record(config.dataset)}
        record_recipe(partial_folder, ours, "build of another recipe or other versions")
        load_source(config.source)  # a source that must be downloaded is downloaded once, and not by every worker
        _draw_missing(partial_folder, config, executor)
        remove_leftovers(partial_folder)
        write_manifest(partial_folder, config, executor)
        if partial_folder != folder:
            (partial_folder / LOCK).unlink()
            os.rename(partial_folder, folder)


def _busy(folder: Path) -> str:
    return f"another process is building in {folder}: wait for it, or name another --out"


def begin_folder(folder: Path) -> Path:
    """Where a dataset is made before it takes its name: `NAME.partial` beside it, or in an object store its place.

    Raises:
        UserError: where a file is in the way.
    """
    partial_folder = folder if is_remote(folder) else folder.with_name(folder.name + ".partial")
    if partial_folder.exists() and not partial_folder.is_dir():
        raise UserError(f"{partial_folder} is in the way: delete it, or name another folder with --out")
    partial_folder.mkdir(parents=True, exist_ok=True)
    return partial_folder


def record_recipe(folder: Path, ours: dict[str, Any], other: str) -> None:
    """Note in an unfinished folder what is made there, or find that it is something else, which `other` names.

    Raises:
        UserError: where it is something else.
    """
    note = folder / RECIPE
    if not note.exists():
        write_json(note, ours)
    elif read_json(note) != ours:
        raise UserError(f"{folder} holds an unfinished {other}: delete it, or name another --out")


def remove_leftovers(folder: Path) -> None:
    """Remove what a worker that was killed has left of a file."""
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()


def _draw_missing(folder: Path, config: DatasetConfig, executor: Executor) -> None:
    schemas = arrow_schemas(config.spec)
    missing = _missing_shards(folder, config)
    done = config.size - sum(shard.stop - shard.start for shard in missing)
    title = f"drawing {config.dataset}"
    with tqdm(total=config.size, initial=done, desc=title, unit="image", disable=None) as progress:
        for images in executor(partial(draw_shard, folder, config, schemas), missing):
            progress.update(images)
    lost = _missing_shards(folder, config)
    if lost:
        raise UserError(f"{len(lost)} shards were drawn and are not in {folder}: is it a folder that all nodes share?")


def _missing_shards(folder: Path, config: DatasetConfig) -> list[Shard]:
    """The shards that are not there whole: an upload may have been cut off, a file emptied by a power cut."""
    invalidate_listing(folder)
    return [shard for shard in list_shards(config) if not all(is_whole(folder / shard.path(table)) for table in TABLES)]


def is_whole(path: Path) -> bool:
    """Whether a Parquet file is there with rows in it."""
    if not path.exists():
        return False
    try:
        with path.open("rb") as file:
            return int(pq.read_metadata(file).num_rows) > 0
    except pa.ArrowInvalid:
        return False

"""Building a dataset: shards drawn by an engine, then the proofs, the manifest and the card.

A folder is drawn beside its place, in `NAME.partial`, and takes its place when it is complete. A shard is written
under a temporary name and renamed, so a build that was killed goes on with the shards that are missing. In an object
store, which can't rename folders, shards are written in their place: the manifest, written last, makes it a dataset.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.common.files import invalidate_listing, is_remote, write_json
from datagen.common.versions import dataset_versions
from datagen.dataset.config import DatasetConfig, Shard, list_shards
from datagen.dataset.executors import Executor
from datagen.dataset.manifest import MANIFEST, check_files, read_json, write_manifest
from datagen.dataset.shards import draw_shard, raw_row
from datagen.registry import DATASETS
from datagen.schema import arrow_schemas
from datagen.sources.catalog import load_source
from datagen.sources.split import SPLITS

RECIPE = "recipe.json"
TRIED = 8  # images of each split that are drawn before a build begins


def build(recipe: DatasetConfig, out: Path, engine: Executor) -> bool:
    """Write the dataset folder `out`; returns False where it was there already, made by the same recipe.

    Raises:
        UserError: where the options leave nothing to draw, `out` holds something else, another build is writing it, or
            a worker was killed.
    """
    if _is_built(out, recipe):
        return False
    for split in SPLITS:  # options that leave a split too few words end here, before anything is written
        for index in range(TRIED):
            raw_row(DATASETS[recipe.dataset], recipe, split, index)
    work = out if is_remote(out) else out.with_name(out.name + ".partial")
    if work.exists() and not work.is_dir():
        raise UserError(f"{work} is in the way: delete it, or name another folder with --out")
    work.mkdir(parents=True, exist_ok=True)
    with nullcontext() if work == out else _locked(work):
        _claim(work, recipe)
        load_source(recipe.source)  # a source that must be downloaded is downloaded once, and not by every worker
        _draw_missing(work, recipe, engine)
        for rest in work.rglob("*.tmp"):  # of a worker that was killed
            rest.unlink()
        write_manifest(work, recipe, engine)
        if work != out:
            (work / ".lock").unlink()
            os.rename(work, out)
    (out / RECIPE).unlink()
    return True


def _is_built(out: Path, recipe: DatasetConfig) -> bool:
    if not out.exists() or not any(out.iterdir()):
        return False
    manifest = read_json(out / MANIFEST)
    if manifest.get("recipe") == recipe.as_json():
        check_files(out, manifest)
        (out / RECIPE).unlink(missing_ok=True)  # of a build that was killed in its last moment
        return True
    if is_remote(out) and not manifest and (out / RECIPE).exists():
        return False
    raise UserError(f"{out} already holds something else: name another folder with --out, or delete it")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is building in {folder}: wait for it, or name another --out") from None
        yield


def _claim(work: Path, recipe: DatasetConfig) -> None:
    """Note whose shards these are, or find that they belong to another recipe, or were drawn by other libraries."""
    note, ours = work / RECIPE, {"recipe": recipe.as_json(), "versions": dataset_versions()}
    if not note.exists():
        write_json(note, ours)
    elif read_json(note) != ours:
        raise UserError(
            f"{work} holds an unfinished build of another recipe or other versions: delete it, or name another --out"
        )


def _draw_missing(work: Path, recipe: DatasetConfig, engine: Executor) -> None:
    schema = arrow_schemas(DATASETS[recipe.dataset])
    missing = _missing(work, recipe)
    done = recipe.size - sum(s.stop - s.start for s in missing)
    what = f"drawing {recipe.dataset}"
    with tqdm(total=recipe.size, initial=done, desc=what, unit="image", disable=None) as progress:
        for images in engine(partial(draw_shard, work, recipe, schema), missing):
            progress.update(images)
    lost = _missing(work, recipe)
    if lost:
        raise UserError(f"{len(lost)} shards were drawn and are not in {work}: is it a folder that all nodes share?")


def _missing(work: Path, recipe: DatasetConfig) -> list[Shard]:
    """The shards that are not there whole: an upload may have been cut off, a file emptied by a power cut."""
    configs = ("raw", "r1")
    invalidate_listing(work)
    return [
        shard for shard in list_shards(recipe) if not all(_is_whole(work / shard.path(config)) for config in configs)
    ]


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with path.open("rb") as file:
            return int(pq.read_metadata(file).num_rows) > 0
    except pa.ArrowInvalid:
        return False

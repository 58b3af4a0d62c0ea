"""Importing: every row is checked, then the splits are decided, then the shards are written.

All happens beside the folder's place, in `NAME.partial`. What is found of a chunk of the table, and each shard, is a
file that appears whole, so that an import that was killed goes on. Nothing but numbers of each row is kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from datagen.common.errors import UserError, writable_folder
from datagen.common.files import atomic_path, write_text
from datagen.common.locks import locked
from datagen.common.versions import dataset_versions
from datagen.dataset.build import LOCK, RECIPE, begin_folder, is_whole, record_recipe, remove_leftovers
from datagen.dataset.config import Shard
from datagen.dataset.executors import Executor, available_cores, process_executor
from datagen.dataset.importing.config import ImportConfig
from datagen.dataset.importing.describe import write_description
from datagen.dataset.importing.images import BrokenImageError, check_image
from datagen.dataset.importing.rows import (
    OUTSIDE,
    BrokenRowError,
    Shown,
    check_columns,
    check_row,
    naming_image,
    prepare,
    raw_row,
    read_images,
)
from datagen.dataset.importing.sources import BROKEN, ClassFolder, Source, open_source, without_chunks
from datagen.dataset.importing.splits import Decision, Rows, check_counts, decide
from datagen.dataset.shards import make_questions
from datagen.interaction import question_images
from datagen.schema import TABLES, arrow_schemas
from datagen.sources.split import SPLITS

CHECKS = "checks"
WORKERS_IMPORT = ("datagen.dataset.importing.run", "imagehash")
FLUSH = 1 << 25  # bytes of images that a worker keeps before it writes them
IMAGE_BYTES = ("image.bytes", "images.list.element.bytes")  # the path in a Parquet file, of which each table has one
CHECKED = pa.struct(
    [
        ("pixels", pa.binary()),
        ("near", pa.uint64()),
        ("digest", pa.binary()),
        ("changes", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
CHECK_SCHEMA = pa.schema(
    [("reason", pa.string()), ("group", pa.binary()), ("given", pa.int8()), ("images", pa.list_(CHECKED))]
)


@dataclass(frozen=True)
class Imported:
    """What an import made: where, how many rows of each split, and what was left out, changed and found alike.

    `broken` is the file that lists the rows that can't be used; None where there are none.
    """

    folder: Path
    counts: dict[str, int]
    rows: int
    changed: dict[str, int]
    decision: Decision
    broken: Path | None
    left_out: int


@dataclass(frozen=True)
class Work:
    """What workers are told of each chunk: what is imported, the columns that are read, the folder they write into."""

    config: ImportConfig
    source: Source
    columns: list[str]
    folder: Path


@dataclass(frozen=True)
class Job:
    """A chunk of the table: its number, where it is, and the number of its first row."""

    number: int
    chunk: Any
    first: int


def import_images(config: ImportConfig, out: str | Path, *, workers: int | None = None) -> Imported:
    """Make a dataset folder of your own images; `workers` processes do it, by default one a core that is ours.

    Raises:
        UserError: where the source can't be read or has no such column, too many rows can't be used, what belongs
            together is in two of the given splits, or `out` can't be written or holds something.
    """
    folder = writable_folder(Path(out))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds something: name another folder with --out, or delete it")
    source = open_source(config.source, config.subset)
    if isinstance(source, ClassFolder) and folder.is_relative_to(source.root):
        raise UserError(
            f"{folder} is in the folder of images, of which the next import would take its pictures for a "
            "class: name another folder with --out"
        )
    columns = check_columns(config, source)
    if not source.chunks:
        raise UserError(f"{config.source} has no rows: name another table")
    partial_folder = begin_folder(folder)
    busy = f"another process is importing into {partial_folder}: wait for it, or name another --out"
    one = len(source.chunks) == 1  # there is nothing to share out
    executor: Executor = map if one else process_executor(workers or available_cores(), WORKERS_IMPORT)
    with locked(partial_folder / LOCK, busy):
        _record(partial_folder, config, source)
        try:
            work = Work(config, without_chunks(source), columns, partial_folder)
            imported = _import(work, source.chunks, folder, executor)
        except RefusedImportError:
            shutil.rmtree(partial_folder)
            raise
        shutil.rmtree(partial_folder / CHECKS)
        for name in (RECIPE, LOCK):
            (partial_folder / name).unlink()
        remove_leftovers(partial_folder)
        if folder.exists():
            folder.rmdir()
        os.rename(partial_folder, folder)
    return imported


class RefusedImportError(UserError):
    """What was found in the rows: nothing of them is to be kept."""


def _record(folder: Path, config: ImportConfig, source: Source) -> None:
    """Note what is imported here, or find that it is something else."""
    identity = hashlib.sha256(json.dumps(source.identity()).encode()).hexdigest()
    ours = {"import": config.model_dump(mode="json"), "source": identity, "versions": dataset_versions()}
    record_recipe(folder, ours, "import of something else")


def _import(work: Work, chunks: Sequence[Any], folder: Path, executor: Executor) -> Imported:
    config = work.config
    jobs = _check(work, chunks, executor)
    known = [_read_checks(work.folder, job) for job in jobs]
    total = sum(len(one.usable) for one in known)
    broken = _broken_rows(config, known, total, folder.with_name(folder.name + BROKEN))
    rows = _usable(known)
    decision = decide(rows, config.shares, config.near, several=config.images is not None)
    if decision.across and not config.drop_duplicates and decision.example is not None:
        one, other = decision.example
        raise RefusedImportError(
            f"{decision.across} rows show what a row of another split shows, or are of its group (row {one} is like "
            f"row {other}): leave them out with --drop-duplicates, or leave out --split"
        )
    try:
        counts = check_counts(decision.splits, config.near)
    except UserError as error:
        raise RefusedImportError(str(error)) from error
    writing = _jobs_to_write(jobs, known, rows, decision)
    _write(work, writing, executor)
    changed = dict(Counter(name for one in known for text in one.changes for name in text.split(",")))
    facts = {
        "rows": total,
        "broken": total - len(rows.numbers),
        "left_out_as_duplicates": decision.across,
        "duplicates": decision.duplicates,
        "near_duplicates": decision.near_duplicates,
        "changed": changed,
        "license": config.license,
    }
    write_description(work.folder, config, facts, executor)
    left_out = total - len(rows.numbers) + decision.across
    return Imported(folder, counts, total, changed, decision, broken, left_out)


def _check(work: Work, chunks: Sequence[Any], executor: Executor) -> list[Job]:
    """Check all chunks that have not been checked; returns the jobs, in order."""
    jobs = [Job(number, chunk, -1) for number, chunk in enumerate(chunks)]
    paths = [_checks_path(work.folder, job) for job in jobs]
    missing = [job for job, path in zip(jobs, paths, strict=True) if not is_whole(path)]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="checking", unit="chunk", disable=None) as bar:
        for _ in executor(partial(check_chunk, work), missing):
            bar.update()
    firsts = np.cumsum([0] + [pq.read_metadata(path).num_rows for path in paths]).tolist()
    return [Job(job.number, job.chunk, first) for job, first in zip(jobs, firsts, strict=False)]


def _checks_path(folder: Path, job: Job) -> Path:
    return folder / CHECKS / f"{job.number:08d}.parquet"


def check_chunk(work: Work, job: Job) -> None:
    """Check the rows of a chunk, and write down what is found of each."""
    found = []
    for row in work.source.read(job.chunk, work.columns):
        try:
            found.append(_check_row(work, row))
        except (BrokenRowError, BrokenImageError) as error:
            found.append({"reason": str(error), "group": b"", "given": -1, "images": []})
    with atomic_path(_checks_path(work.folder, job)) as temporary:
        pq.write_table(pa.Table.from_pylist(found, CHECK_SCHEMA), temporary)


def _check_row(work: Work, row: Mapping[str, Any]) -> dict[str, Any]:
    config = work.config
    prepared = prepare(config, row)
    images = []
    for number, content in enumerate(read_images(config, row, work.source.root), start=1):
        with naming_image(config, number):
            images.append(_check_image(content))
    sizes = [(image["width"], image["height"]) for image in images]
    check_row(config, raw_row(config, prepared, [Shown(b"", "", size) for size in sizes]), sizes[0])
    return {
        "reason": None,
        "group": images[0]["pixels"] if prepared.group is None else _hash_group(prepared.group),
        "given": -1 if prepared.split is None else SPLITS.index(prepared.split),
        "images": images,
    }


def _check_image(content: bytes) -> dict[str, Any]:
    image = check_image(content)
    return {
        "pixels": image.pixels,
        "near": image.near,
        "digest": xxhash.xxh3_128_digest(content),
        "changes": ",".join(image.changes),
        "width": image.size[0],
        "height": image.size[1],
    }


def _hash_group(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()[:16]


@dataclass(frozen=True)
class Found:
    """What was found of a chunk, whose first row has the number `first`.

    `usable`, `group`, `given` and `counts` (how many images) are of each row, `pixels` and `near` of each image.
    `reasons` says of a row by its number why it can't be used, `changes` has a text for each image that was changed.
    """

    first: int
    usable: NDArray[np.bool_]
    group: NDArray[np.bytes_]
    given: NDArray[np.int8]
    counts: NDArray[np.int64]
    pixels: NDArray[np.bytes_]
    near: NDArray[np.uint64]
    reasons: dict[int, str]
    changes: list[str]


def _read_checks(folder: Path, job: Job) -> Found:
    with pq.ParquetFile(_checks_path(folder, job)) as file:
        table = file.read()
    reasons = table["reason"].to_pylist()
    images = table["images"].combine_chunks()
    flat = images.flatten()
    return Found(
        job.first,
        usable=np.array([reason is None for reason in reasons]),
        group=np.array(table["group"].to_pylist(), dtype="S16"),
        given=table["given"].to_numpy(),
        counts=images.value_lengths().to_numpy().astype(np.int64),
        pixels=np.array(flat.field("pixels").to_pylist(), dtype="S16"),
        near=flat.field("near").to_numpy(),
        reasons={job.first + at: reason for at, reason in enumerate(reasons) if reason is not None},
        changes=[text for text in flat.field("changes").to_pylist() if text],
    )


def _broken_rows(config: ImportConfig, known: Sequence[Found], total: int, listing: Path) -> Path | None:
    """List the rows that can't be used in a file; returns it.

    Raises:
        RefusedImportError: where they are too many, or an image is outside the table's folder.
    """
    broken = [found for one in known for found in one.reasons.items()]
    for number, reason in broken:
        if reason.endswith(OUTSIDE):
            raise RefusedImportError(f"row {number} of {config.source} can't be used: {reason}; move the image there")
    if not broken:
        listing.unlink(missing_ok=True)
        return None
    write_text(listing, "".join(json.dumps({"row": number, "reason": reason}) + "\n" for number, reason in broken))
    if len(broken) > config.max_broken * total:
        reason, _ = Counter(reason for _, reason in broken).most_common(1)[0]
        number = next(number for number, one in broken if one == reason)
        raise RefusedImportError(
            f"{len(broken)} of {total} rows can't be used (row {number}: {reason}): mend them, they are listed in "
            f"{listing}, or raise --max-broken {config.max_broken:g}"
        )
    return listing


def _usable(known: Sequence[Found]) -> Rows:
    usable = np.concatenate([one.usable for one in known])
    counts = np.concatenate([one.counts for one in known])[usable]  # those that can't be used have no images here
    return Rows(
        numbers=np.flatnonzero(usable),
        groups=np.concatenate([one.group for one in known])[usable],
        given=np.concatenate([one.given for one in known])[usable],
        row=np.repeat(np.arange(len(counts)), counts),
        pixels=np.concatenate([one.pixels for one in known]),
        near=np.concatenate([one.near for one in known]),
    )


@dataclass(frozen=True)
class WriteJob:
    """A chunk to write: the split of each of its rows (-1: none), the first row with its images, and its shards."""

    job: Job
    splits: NDArray[np.int8]
    firsts: NDArray[np.int64]
    shards: tuple[Shard, ...]


def _jobs_to_write(jobs: Sequence[Job], known: Sequence[Found], rows: Rows, decision: Decision) -> list[WriteJob]:
    total = sum(len(one.usable) for one in known)
    splits, firsts = np.full(total, -1, dtype=np.int8), np.zeros(total, dtype=np.int64)
    splits[rows.numbers], firsts[rows.numbers] = decision.splits, decision.firsts
    parts = [slice(one.first, one.first + len(one.usable)) for one in known]
    shards = _shards([splits[part] for part in parts])
    return [WriteJob(job, splits[part], firsts[part], own) for job, part, own in zip(jobs, parts, shards, strict=True)]


def _shards(chunks: Sequence[NDArray[np.int8]]) -> list[tuple[Shard, ...]]:
    """The shards of each chunk: one a split that it has rows of, numbered within the split."""
    found: list[list[Shard]] = [[] for _ in chunks]
    for number, split in enumerate(SPLITS):
        counts = [int((chunk == number).sum()) for chunk in chunks]
        filled = [at for at, count in enumerate(counts) if count]
        start = 0
        for index, at in enumerate(filled):
            found[at].append(Shard(split, index, len(filled), start, start + counts[at]))
            start += counts[at]
    return [tuple(shards) for shards in found]


def _write(work: Work, jobs: Sequence[WriteJob], executor: Executor) -> None:
    """Write all shards that are not there."""
    missing = [
        job
        for job in jobs
        if not all(is_whole(work.folder / shard.path(table)) for shard in job.shards for table in TABLES)
    ]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="writing", unit="chunk", disable=None) as bar:
        for _ in executor(partial(write_chunk, work), missing):
            bar.update()


def write_chunk(work: Work, job: WriteJob) -> None:
    """Write the shards of a chunk, some megabytes at a time.

    Raises:
        UserError: where an image has changed since it was checked, or the table can't be read.
    """
    schemas = arrow_schemas(work.config.spec)
    with ExitStack() as stack:
        writers = {
            (shard.split, table): stack.enter_context(
                pq.ParquetWriter(
                    stack.enter_context(atomic_path(work.folder / shard.path(table))),
                    schemas[table],
                    use_dictionary=False,
                    compression=dict.fromkeys(IMAGE_BYTES, "NONE"),  # PNG and JPEG are compressed
                )
            )
            for shard in job.shards
            for table in TABLES
        }
        rows: dict[str, list[dict[str, Any]]] = {shard.split: [] for shard in job.shards}
        waiting = 0
        for split, raw in _raw_rows(work, job):
            rows[split].append(raw)
            waiting += sum(len(image["bytes"]) for image in question_images(raw))
            if waiting > FLUSH:
                _flush(work.config, rows, writers, schemas)
                waiting = 0
        _flush(work.config, rows, writers, schemas)


def _flush(
    config: ImportConfig,
    rows: dict[str, list[dict[str, Any]]],
    writers: Mapping[tuple[str, str], Any],
    schemas: Mapping[str, pa.Schema],
) -> None:
    for split, raw in rows.items():
        if raw:
            for table, made in (("raw", raw), ("r1", make_questions(config.spec, raw))):
                writers[split, table].write_table(pa.Table.from_pylist(made, schemas[table]))
            raw.clear()


def _raw_rows(work: Work, job: WriteJob) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a chunk that belong to a split, as rows of `raw`."""
    config = work.config
    with pq.ParquetFile(_checks_path(work.folder, job.job)) as file:
        checks = file.read(columns=["images"])["images"].to_pylist()
    for at, (row, checked) in enumerate(zip(work.source.read(job.job.chunk, work.columns), checks, strict=True)):
        if job.splits[at] < 0:
            continue
        number = job.job.first + at
        contents = read_images(config, row, work.source.root)
        if [xxhash.xxh3_128_digest(content) for content in contents] != [check["digest"] for check in checked]:
            raise RefusedImportError(f"an image of row {number} has changed since it was checked: import again")
        images = [_as_checked(content, check) for content, check in zip(contents, checked, strict=True)]
        raw = raw_row(config, prepare(config, row), images, number, int(job.firsts[at]))
        yield SPLITS[job.splits[at]], raw


def _as_checked(content: bytes, check: Mapping[str, Any]) -> Shown:
    """An image as it is kept, of the bytes that were checked."""
    kept = check_image(content).content if check["changes"] else content
    return Shown(kept, check["pixels"].hex(), (check["width"], check["height"]))

"""Where rows come from: tables, folders of classes, and the Hub, in chunks that workers read by themselves."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.common.errors import UserError
from datagen.hub.fetch import parse_repo_id

ROWS = 500  # in a chunk
BATCH = 32  # rows with images that are in memory at a time
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".jsonl", ".parquet")
BROKEN = ".broken.jsonl"  # beside a dataset: the rows that can't be used
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "test", "training": "train"}
Row = Mapping[str, Any]


class Source(Protocol):
    """A table of rows."""

    @property
    def root(self) -> Path | None:
        """The folder that paths of images are in; None where there are none."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""

    @property
    def chunks(self) -> Sequence[Any]:
        """Where the rows are: a few hundred in each."""

    def read(self, chunk: Any, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a chunk, in order."""

    def identity(self) -> list[Any]:
        """What tells it from what it was: names, sizes and times of its files."""


def open_source(name: str, subset: str | None) -> Source:
    """The table that a path names, or USER/NAME on the Hub (of which `subset` is a config).

    Raises:
        UserError: where there is none, or it can't be read.
    """
    path = Path(name)
    if parse_repo_id(name):
        return _open_hub(name, subset)
    if subset is not None:
        raise UserError("--subset is for a dataset on the Hub: leave it out")
    if not path.exists():
        raise UserError(f"there is no {name}: name a table, a folder of images, or USER/NAME on the Hub")
    if path.is_file():
        return _open_tables([path])
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLES and file.is_file())
    tables = [file for file in tables if not file.name.endswith(BROKEN)]  # of an import into this folder
    if not tables:
        return _list_classes(path)
    return _open_tables(tables)


def without_chunks(source: Any) -> Any:
    """A source for workers, who are told of each chunk: the list of all may be long."""
    return replace(source, chunks=())


def _open_tables(paths: list[Path]) -> Source:
    suffixes = {path.suffix.lower() for path in paths}
    if suffixes == {".parquet"}:
        return _open_parquet(paths)
    if len(paths) > 1:
        raise UserError(f"{paths[0].parent} holds several tables ({', '.join(p.name for p in paths)}): name one")
    if not suffixes <= set(TABLES):
        raise UserError(f"{paths[0]} is no table that can be read: name one of {', '.join(TABLES)}")
    return _scan_text(paths[0])


@dataclass(frozen=True)
class TextTable:
    """A CSV, TSV or JSON lines file; a chunk is where it begins, in bytes, and its number of rows."""

    path: Path
    columns: tuple[str, ...]
    chunks: tuple[tuple[int, int], ...]

    @property
    def root(self) -> Path:
        """The folder that it is in."""
        return self.path.parent

    def read(self, chunk: tuple[int, int], columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a chunk, in order.

        Raises:
            UserError: where the file is not UTF-8, or a record is damaged; it names the line.
        """
        offset, count = chunk
        with self.path.open("rb") as file:
            file.seek(offset)
            records = _records(self.path, _Lines(self.path, file))
            for _, (_, values) in zip(range(count), records, strict=False):
                row = values if isinstance(values, dict) else dict(zip(self.columns, values, strict=True))
                yield {name: row.get(name) for name in columns}

    def identity(self) -> list[Any]:
        """Its name, size and time."""
        return _file_identity(self.path)


class _Lines:
    """The lines of a file as text; counts them, and the bytes that were read."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file
        self.read, self.number = file.tell(), 0

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            text = line.removeprefix(b"\xef\xbb\xbf") if self.read == 0 else line
            self.read += len(line)
            self.number += 1
            try:
                yield text.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{self.path}, line {self.number}, is not UTF-8: save the table as UTF-8") from None


def _records(path: Path, lines: _Lines) -> Iterator[tuple[int, Any]]:
    """The records from here on, each behind the byte at which it ends; blank lines are none."""
    suffix = path.suffix.lower()
    try:
        if suffix in DELIMITERS:
            for values in csv.reader(iter(lines), delimiter=DELIMITERS[suffix], strict=True):
                if values:
                    yield lines.read, values
        else:
            for line in lines:
                if line.strip():
                    value = json.loads(line)
                    if not isinstance(value, dict):
                        raise ValueError("it is no object")
                    yield lines.read, value
    except (csv.Error, ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {lines.number}, can't be read ({error}): mend the table") from error


def _scan_text(path: Path) -> TextTable:
    """Read a table once: its columns, where its chunks begin, and whether every line is whole."""
    chunks: list[tuple[int, int]] = []
    count, columns = 0, dict[str, None]()
    with path.open("rb") as file:
        lines = _Lines(path, file)
        start = end = 0
        for end, values in _records(path, lines):
            if isinstance(values, list) and not columns:
                columns = dict.fromkeys(values)
                if len(columns) < len(values):
                    raise UserError(f"{path} names a column twice: rename one")
                start = end
                continue
            if isinstance(values, list) and len(values) != len(columns):
                raise UserError(
                    f"{path}, line {lines.number}, has {len(values)} values, and there are {len(columns)} columns: "
                    "mend the table"
                )
            if isinstance(values, dict) and not chunks:
                columns |= dict.fromkeys(values)
            count += 1
            if count == ROWS:
                chunks.append((start, count))
                start, count = end, 0
        if count:
            chunks.append((start, count))
    return TextTable(path.resolve(), tuple(columns), tuple(chunks))


@dataclass(frozen=True)
class ParquetTable:
    """Parquet files of one schema; a chunk is rows of a row group: (file, row group, start, stop)."""

    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    chunks: tuple[tuple[int, int, int, int], ...]

    @property
    def root(self) -> Path:
        """The folder that they are in."""
        return self.paths[0].parent

    def read(self, chunk: tuple[int, int, int, int], columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a chunk, in order; the row group is streamed, so that a large one takes no more memory."""
        number, group, start, stop = chunk
        at = 0
        with pq.ParquetFile(self.paths[number], buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=list(columns)):
                if at + len(batch) > start:
                    for row in batch.slice(max(0, start - at), stop - max(start, at)).to_pylist():
                        yield {name: shortest(value, batch.schema.field(name).type) for name, value in row.items()}
                at += len(batch)
                if at >= stop:
                    return

    def identity(self) -> list[Any]:
        """Their names, sizes and times."""
        return [_file_identity(path) for path in self.paths]


def shortest(value: Any, kind: pa.DataType) -> Any:
    """A value of a column of that type, with 0.1 for a float of 32 bits that is nearest to it, not 0.10000000149."""
    if value is not None and pa.types.is_floating(kind) and kind.bit_width < 64:
        return float(str(kind.to_pandas_dtype()(value)))
    if isinstance(value, list) and isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return [shortest(one, kind.value_type) for one in value]
    return value


def _open_parquet(paths: list[Path]) -> ParquetTable:
    chunks: list[tuple[int, int, int, int]] = []
    columns = None
    for number, path in enumerate(paths):
        try:
            with pq.ParquetFile(path) as file:
                names = tuple(file.schema_arrow.names)
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is no Parquet file that can be read: mend it, or name another") from error
        if len(set(names)) < len(names):
            raise UserError(f"{path} names a column twice: rename one")
        if columns not in (None, names):
            raise UserError(f"{path} has other columns than {paths[0].name}: name one of the files")
        columns = names
        for group, size in enumerate(sizes):
            chunks += [(number, group, at, min(at + ROWS, size)) for at in range(0, size, ROWS)]
    return ParquetTable(tuple(path.resolve() for path in paths), columns or (), tuple(chunks))


@dataclass(frozen=True)
class ClassFolder:
    """A folder of images by class, perhaps by split before that: columns `image`, `label` and `split`."""

    root: Path
    columns: tuple[str, ...]
    chunks: tuple[tuple[tuple[str, ...], ...], ...]

    def read(self, chunk: tuple[tuple[str, ...], ...], columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a chunk, in order."""
        for values in chunk:
            row = dict(zip(self.columns, values, strict=True))
            yield {name: row[name] for name in columns}

    def identity(self) -> list[Any]:
        """What it lists."""
        return [str(self.root), self.chunks]


def _list_classes(folder: Path) -> ClassFolder:
    files = sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGES)
    )
    if not files:
        raise UserError(f"{folder} holds neither a table nor images: name another")
    parts = [Path(file).parts for file in files]
    split = all(len(part) > 2 and part[0] in ("train", "validation", "test", *SPLIT_NAMES) for part in parts)
    classes = [part[1:-1] if split else part[:-1] for part in parts]
    if not all(classes):
        raise UserError(f"{folder} holds no table, and images that are in no folder of a class: add a table")
    columns = ("image", "label", *(("split",) if split else ()))
    rows = [
        (file, name[0], *((part[0],) if split else ())) for file, name, part in zip(files, classes, parts, strict=True)
    ]
    chunks = tuple(tuple(rows[at : at + ROWS]) for at in range(0, len(rows), ROWS))
    return ClassFolder(folder.resolve(), columns, chunks)


@dataclass(frozen=True)
class HubTable:
    """A dataset of the Hub as `datasets` reads it, from files in its cache; a chunk is (split, start, stop)."""

    root: Path | None
    splits: Mapping[str, Any]
    name: str
    columns: tuple[str, ...]
    chunks: tuple[tuple[str, int, int], ...]

    def read(self, chunk: tuple[str, int, int], columns: Sequence[str]) -> Iterator[Row]:
        """The rows of a chunk, in order; a label is its name."""
        split, start, stop = chunk
        rows = self.splits[split]
        kept = [name for name in columns if name in rows.column_names]
        names = {name: rows.features[name].names for name in kept if hasattr(rows.features[name], "names")}
        rows = rows.select_columns(kept)
        schema = rows.features.arrow_schema
        for index in range(start, stop):
            row = {"split": split, **rows[index]}
            for name in kept:
                row[name] = shortest(row[name], schema.field(name).type)
            for name, labels in names.items():
                label = row[name]
                row[name] = labels[label] if isinstance(label, int) and 0 <= label < len(labels) else None
            yield {name: row[name] for name in columns}

    def identity(self) -> list[Any]:
        """The repository at its commit."""
        return [self.name]


def _open_hub(name: str, subset: str | None) -> HubTable:
    """Open a dataset of the Hub with `datasets`, which runs no code of it."""
    from datasets import Image, List, disable_progress_bars, load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    from datagen.hub.errors import hub_errors_explained

    repo, revision = parse_repo_id(name) or (name, None)
    disable_progress_bars()
    with hub_errors_explained(repo, "dataset", revision):
        commit = revision if HF_HUB_OFFLINE else HfApi().repo_info(repo, repo_type="dataset", revision=revision).sha
        try:
            found = load_dataset(repo, subset, revision=commit)
        except ValueError as error:  # what `datasets` says of configs, and of a dataset that takes code
            raise UserError(f"{repo} can't be read: {' '.join(str(error).split())[:300]}") from error
    for split, rows in found.items():
        for column, feature in rows.features.items():
            if isinstance(feature, Image):
                rows = rows.cast_column(column, Image(decode=False))  # noqa: PLW2901
            elif isinstance(feature, List) and isinstance(feature.feature, Image):
                rows = rows.cast_column(column, List(Image(decode=False)))  # noqa: PLW2901
        found[split] = rows
    columns = dict.fromkeys(name for rows in found.values() for name in rows.column_names)
    chunks = [
        (split, at, min(at + ROWS, len(rows))) for split, rows in found.items() for at in range(0, len(rows), ROWS)
    ]
    return HubTable(
        Path(HF_HUB_CACHE).resolve(),
        dict(found),
        f"{repo}@{commit}",
        (*columns, *({"split"} - {*columns})),
        tuple(chunks),
    )


def _file_identity(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]

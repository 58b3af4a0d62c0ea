"""Ways to damage a folder that is good: each is a function of the folder."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.common.files import sha256

Damage = Callable[[Path], Any]
MANIFEST, TEST = "manifest.json", "r1/test-00000-of-00001.parquet"
TERMINAL = "\x1b]0;title\x07\x1b[31mred"
BIDI = "abc\u202edef"
MARKUP = "![](https://example.org/x.png)<img src=x onerror=alert(1)> | [a](javascript:b) `c` **d** www.example.org"
DEEP = '{"a":' * 3_000 + "1" + "}" * 3_000
NAMED_AGAIN = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]\n" for i in range(1, 12))


def text(name: str, content: str | bytes) -> Damage:
    """Replaces a file."""
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def half(name: str) -> Damage:
    """Keeps half of a file: an interrupted copy."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def a_folder(name: str) -> Damage:
    """A folder in place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def keys(name: str, *path: str, **values: Any) -> Damage:
    """Sets keys of the object in a JSON file, or of one in it."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        inner = whole
        for key in path:
            inner = inner[key]
        inner.update(values)
        (folder / name).write_text(json.dumps(whole))

    return damage


def without(name: str, *path: str) -> Damage:
    """Leaves out a key of a JSON file."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        inner = whole
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        (folder / name).write_text(json.dumps(whole))

    return damage


def literal(name: str, key: str, value: str) -> Damage:
    """Puts a key with a value that only JSON's text can have before all others."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_text() if (folder / name).exists() else "{}"
        rest = content.lstrip()[1:]
        (folder / name).write_text(f'{{"{key}": {value}{"," if rest.strip() != "}" else ""}{rest}')

    return damage


def table(change: Callable[[pa.Table], pa.Table], name: str = TEST) -> Damage:
    """Changes the table in a file of a dataset; its hash in the manifest fits."""

    def damage(folder: Path) -> None:
        pq.write_table(change(pq.read_table(folder / name)), folder / name)
        fit(folder, name)

    return damage


def row(file: str = TEST, **values: Any) -> Damage:
    """Changes columns of the second row in a file of a dataset; a function is given the value that was there."""

    def change(before: pa.Table) -> pa.Table:
        rows = before.to_pylist()
        for name, value in values.items():
            rows[1][name] = value(rows[1][name]) if callable(value) else value
        return pa.Table.from_pylist(rows, before.schema)

    return table(change, file)


def fit(folder: Path, name: str = TEST) -> None:
    """Makes the manifest say that a file is what it is now."""
    keys(MANIFEST, "files", **{name: sha256(folder / name)})(folder)


def image(change: Callable[[bytes], bytes | None]) -> Damage:
    """Changes the bytes of an image."""
    return row(image=lambda before: {"bytes": change(before["bytes"]), "path": None})


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sized(width: int, height: int) -> Damage:
    """An image whose header claims a size; it holds no pixel."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return image(lambda _: b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def not_utf8(before: pa.Table) -> pa.Table:
    """Answers that are no text."""
    at = before.schema.get_field_index("answer")
    values = [b"\xff\xfe", *(answer.encode() for answer in before["answer"].to_pylist()[1:])]
    content, ends = b"".join(values), [0]
    for value in values:
        ends.append(ends[-1] + len(value))
    offsets = pa.py_buffer(struct.pack(f"<{len(ends)}i", *ends))
    column = pa.Array.from_buffers(pa.string(), len(values), [None, offsets, pa.py_buffer(content)])
    return before.set_column(at, before.schema.field(at), column)

"""Files that are never half-written, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from datagen.common.errors import UserError, writable_folder

RECORD = "r1vlm.json"  # in a checkpoint, written by training and read by evaluation; every key is optional there
METRICS = "metrics.jsonl"  # in a run folder, a line a logged step
CURVE = "reward_curve.png"  # in a run folder, the same as a picture


def open_file(path: Path) -> IO[bytes]:
    """The regular file at `path`, open for reading; never a pipe or a device, which may wait or have no end.

    Raises:
        OSError: where it is none, or can't be read.
    """
    if not is_remote(path) and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.open("rb")


def is_remote(path: Path) -> bool:
    """Whether `path` is in an object store (a universal-pathlib path), and not in a folder of this machine."""
    return getattr(path, "protocol", "") not in ("", "file", "local")


def parse_path(text: str) -> Path:
    """The folder, or the place in an object store, that `text` names.

    Raises:
        UserError: where the package that speaks its protocol is missing.
    """
    if "://" not in text:
        return Path(text)
    from upath import UPath

    try:
        path: Any = UPath(text)
    except (ImportError, ValueError) as error:
        raise UserError(f"can't reach {text}: {' '.join(str(error).split())}") from error
    return path if is_remote(path) else Path(path.path)


def resolve_input(text: str) -> Path:
    """The folder, or the place in an object store, that `text` names.

    Raises:
        UserError: where a store refuses to be read.
    """
    path = parse_path(text)
    if is_remote(path):
        try:
            path.exists()
        except Exception as error:  # each store raises its own
            raise UserError(f"can't read {text}: {_one_line(error)}") from error
    return path


def resolve_output(name: str | Path) -> Path:
    """The folder, or the place in an object store, that is to be written, as an absolute path.

    Raises:
        UserError: where it can't be written to, or is a mount point.
    """
    path = parse_path(name) if isinstance(name, str) else name
    if not is_remote(path):
        if os.path.ismount(path):
            raise UserError(f"{path} is a mount point, which can't be renamed: name a folder in it with --out")
        return writable_folder(path)
    try:
        probe = path / ".probe"
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # each store raises its own
        raise UserError(f"can't write to {name}: {_one_line(error)}") from error
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def local_folder(text: str) -> Path:
    """The folder of this machine that `text` names.

    Raises:
        UserError: where it names a place in an object store.
    """
    path = parse_path(text)
    if is_remote(path):
        raise UserError(f"{text} is no folder on this machine: copy it into one, and name that")
    return path


def invalidate_listing(path: Path) -> None:
    """Forget what was seen in an object store: others have written to it since."""
    if is_remote(path):
        store: Any = path
        store.fs.invalidate_cache()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an error of the disk that names no file, as that of a write is, is one of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes `path`'s place in one step.

    For a path in an object store it is a local one, and is uploaded.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            yield local
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(local.read_bytes())  # a shard is a few megabytes
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # a process number may occur on two machines
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`, in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def cache_folder(name: str) -> Path:
    """The folder of what is kept under `name` for later commands: in `R1VLM_CACHE`, or in `~/.cache/r1vlm`."""
    return Path(os.environ.get("R1VLM_CACHE") or Path.home() / ".cache" / "r1vlm") / name


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

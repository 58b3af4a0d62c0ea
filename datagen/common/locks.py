"""Locks between processes, which the death of a process releases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.common.errors import UserError


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, which stays behind.

    Raises:
        UserError: with the sentence `refusal`, where another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(refusal) from None
    try:
        yield
    finally:
        lock.release()

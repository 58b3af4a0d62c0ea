"""Locks between processes, which the death of a process releases."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from datagen.common.errors import UserError

NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some mounts of NFS and Lustre
NO_FOLDER_LOCK = (*NO_FLOCK, errno.EBADF)  # NFS has locks of its own kind, for what is open to be written
SETTLED = 1.0  # seconds in which filelock finds out that the holder of a lock is dead


@contextmanager
def locked(path: Path, refusal: str, wait: float = 0) -> Iterator[None]:
    """Hold the lock file `path`; `wait` seconds for another process that holds it.

    Where the file system can't lock (it has no `flock`), a line on stderr says so, and the lock is the file itself,
    which names its process. That of a process of this machine that died is taken over. One of another machine can't be
    told from one that is held.

    Raises:
        UserError: with the sentence `refusal`, where another process holds it, or has just moved its folder away.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    try:
        soft = not _has_flock(path.parent)
        lock = (SoftFileLock if soft else FileLock)(path)
        lock.acquire(timeout=max(wait, SETTLED * soft), poll_interval=0.05)
    except FileNotFoundError:
        raise UserError(refusal) from None
    except Timeout:
        raise UserError(f"{refusal} (or delete {path}, if that process is gone)" if soft else refusal) from None
    if soft:
        _report_no_flock(path.parent)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a lock on a folder itself: no file stands for it, as in one whose every file is somebody's result.

    Where the file system locks no folders, there is none.

    Raises:
        UserError: with the sentence `refusal`, where another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError as error:
            if error.errno not in NO_FOLDER_LOCK:
                raise
        yield
    finally:
        os.close(handle)


def _has_flock(folder: Path) -> bool:
    """Whether files in a folder can be locked."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return False
    return True


@cache  # once a folder
def _report_no_flock(folder: Path) -> None:
    print(
        f"the file system of {folder} has no locks: a file there stands for one, and may stay behind after a crash",
        file=sys.stderr,
        flush=True,
    )

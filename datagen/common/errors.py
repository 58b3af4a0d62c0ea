"""Errors a user can mend: one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import tempfile
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
)  # not for us to mend
QUERY = re.compile(r"""(?<=://)([^\s?#"']*)\?[^\s"']*?(?=[.,:;)]*(?:[\s"']|$))""")  # of an address
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")  # of a variable of the environment
SHORTEST_SECRET = 8  # characters; a shorter one (EMPTY, none) stands for no key, and is found in other words


class UserError(Exception):
    """Something the user can mend. The message is one sentence that says what to do."""


def strip_password(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def strip_secrets(text: str, *secrets: str) -> str:
    """A text without the users, passwords and queries of the addresses in it, and without `secrets`.

    Nor does it have the keys, tokens and passwords of the environment. Each is replaced by `***`, also where JSON or an
    address spells it otherwise.
    """
    of_environment = {value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)}
    hidden = {*secrets, *(value for value in of_environment if len(value) >= SHORTEST_SECRET)} - {""}
    text = QUERY.sub(r"\1", strip_password(text))
    for secret in sorted(hidden, key=len, reverse=True):  # one may be a part of another
        for spelling in (secret, secret.replace("/", r"\/"), quote(secret, safe="")):
            text = text.replace(spelling, "***")
    return text


def suggest(name: str, known: list[str]) -> str:
    """`did you mean …?` for the known name nearest to `name`, or the list of what is known."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def require_extra(extra: str, *modules: str) -> None:
    """Raise a `UserError` naming the extra to install where one of its modules is missing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}: install it with  pip install 'r1vlm[{extra}]'")


def check_torchvision() -> None:
    """Check that torchvision is of the same build as torch; without that transformers can't be imported.

    Raises:
        UserError: where it is of another one, as when pip finds torch for CPUs on one index and torchvision on another.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        versions = {name: version(name) for name in ("torch", "torchvision")}
        found = " and ".join(f"{name} {number}" for name, number in versions.items())
        same = " ".join(f"{name}=={number.partition('+')[0]}" for name, number in versions.items())
        raise UserError(
            f"{found} are of different builds ({error}): install both again, in one command and from one index:  "
            f"pip install --force-reinstall --index-url INDEX {same}"
        ) from error


def writable_folder(path: Path) -> Path:
    """The absolute `path`, checked: it is or can become a folder that we may write to.

    Raises:
        UserError: where it is a file, or it (or its nearest existing parent) can't be written.
    """
    path = Path(os.path.realpath(path))
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{existing} is a file, and a folder is wanted there: name another folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permissions alone do not tell: a full or read-only disk
    except OSError as error:
        raise UserError(f"can't write to {existing} ({error.strerror}): name another folder") from error
    return path

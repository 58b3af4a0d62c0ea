"""The code of datasets that are not built in: a Python file, of an installed package or named by its path.

What is loaded here is run. Only the user names it: by installing a package, or by a path on the command line. Nothing
in a dataset or a checkpoint does.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.common.files import open_file
from datagen.task import DatasetSpec, Task

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "r1vlm.datasets"  # of entry points: NAME = "module:VARIABLE", NAME being the dataset's own
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}", re.ASCII)  # of datasets, tasks and options: in paths, ids and flags
SHOWN = 300  # characters of an error's text


@dataclass(frozen=True)
class Code:
    """The file that defines some datasets, as it was read, and the installed package that it is of (None: of none)."""

    path: str
    source: bytes
    package: str | None = None
    version: str | None = None

    @property
    def sha256(self) -> str:
        """Of the file, as 64 hexadecimal digits."""
        return hashlib.sha256(self.source).hexdigest()

    def as_json(self) -> dict[str, str]:
        """As a manifest or a checkpoint's record has it: no path of this machine."""
        package = {"package": self.package, "version": self.version or ""} if self.package else {}
        return {**package, "file": Path(self.path).name, "sha256": self.sha256}

    def __str__(self) -> str:
        """As a sentence names it."""
        return f"the package {self.package} {self.version}" if self.package else f"the file {self.path}"


def is_same(one: Code | None, other: Code) -> bool:
    """Whether two are of one package, or one file: a copy of it, or what it was before it was edited."""
    if one is None or one.package != other.package:
        return False
    return other.package is not None or one.path == other.path or one.source == other.source


def read_code(path: str | Path) -> Code:
    """The file at a path, which is of no package.

    Raises:
        UserError: where it can't be read.
    """
    path = Path(path)
    if not path.name.isprintable():  # it stands in manifests, and in sentences
        raise UserError(f"the name of {path} holds characters that can't be printed: rename it")
    try:
        with open_file(path) as file:
            return Code(str(path.resolve()), file.read())
    except OSError as error:
        raise UserError(f"can't read the task file {path}: {error.strerror}") from error


def run_file(code: Code) -> dict[str, DatasetSpec]:
    """Run a file as a module, once a process; returns the datasets that it has, by the names of their variables.

    Raises:
        UserError: where it is no Python, or raises.
    """
    name = f"r1vlm_task_{code.sha256[:16]}"  # no other module is called so, and another version of the file is another
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = code.path
        # What is read again for a hash or a traceback is what was run, also where the file was edited since or is not.
        lines = code.source.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[code.path] = (len(code.source), None, lines, code.path)
        sys.modules[name] = module  # dataclasses look their module up
        try:
            _explained(
                code.path,
                lambda: exec(compile(code.source, code.path, "exec", dont_inherit=True), vars(module)),  # noqa: S102
            )
        except BaseException:
            del sys.modules[name]
            raise
    return {key: value for key, value in vars(sys.modules[name]).items() if isinstance(value, DatasetSpec)}


def installed() -> dict[str, list[EntryPoint]]:
    """The datasets that installed packages say they have, by name; nothing of them is loaded."""
    return _installed(tuple(sys.path))


@cache
def _installed(_: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """What is found along a path: asked for each image, and read once."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, package_of(one))):
        found.setdefault(point.name, []).append(point)
    return found


def package_of(point: EntryPoint) -> str:
    """The package of an entry point, and its version, as a sentence names them."""
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package without a name"


def points_of(package: str) -> list[EntryPoint]:
    """The entry points of an installed package; none where it is not installed."""
    return [point for points in installed().values() for point in points if point.dist and point.dist.name == package]


def load_installed(point: EntryPoint) -> tuple[DatasetSpec, Code]:
    """The dataset of an entry point, and the code that defines it.

    Raises:
        UserError: where its package can't be imported, or has something else there.
    """
    owner = package_of(point)
    spec = _explained(owner, point.load)
    if not isinstance(spec, DatasetSpec) or spec.name != point.name:
        what = f"the dataset {spec.name!r}" if isinstance(spec, DatasetSpec) else f"a {type(spec).__name__}"
        raise UserError(
            f"{owner} names {point.value} as the dataset {point.name!r}, and it is {what}: correct it there"
        )
    path = str(sys.modules[point.module].__file__)
    dist = point.dist
    return spec, Code(path, Path(path).read_bytes(), dist.name if dist else None, dist.version if dist else None)


def _explained(what: str, load: Callable[[], Any]) -> Any:
    """What loading gives; a `UserError` that says where and why, for anything that the user's code raises."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} can't be loaded: {explain(error, what)}") from error


def explain(error: BaseException, path: str = "") -> str:
    """What somebody's code has raised, with the file (that at `path`, if it is in there) and the line, on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN].removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"line {error.lineno}: {' '.join(str(error.msg).split())}"
    ours = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib")
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(ours)]
    own = [one for one in frames if one.filename == path] or frames
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
    more = ": install it; a task of several files is a package" if isinstance(error, ModuleNotFoundError) else ""
    return f"{place}{text}{more}"


def is_name(name: Any) -> bool:
    """Whether a dataset, a task or an option may have that name."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and name != "all"


def check_spec(spec: DatasetSpec, owner: str) -> None:
    """Check what is relied on wherever a dataset is named; `datagen.testing.check_dataset` looks at all the rest.

    `owner` is whose it is, for the sentence.

    Raises:
        UserError: naming what to change.
    """
    from datagen.sources.catalog import SOURCES

    tasks: Iterable[Any] = spec.tasks
    if not all(isinstance(task, Task) for task in tasks) or not spec.tasks:
        raise UserError(f"{owner} has the dataset {spec.name!r} without tasks: give it a tuple of Task")
    if not callable(spec.draw):
        raise UserError(f"{owner} has the dataset {spec.name!r} without a function draw: give it one")
    if spec.several_images:
        raise UserError(
            f"{owner} draws {spec.name!r} with several_images, which only imported datasets have: leave it out"
        )
    names = [spec.name, *(task.name for task in spec.tasks)]
    for name in (*names, *(option.name for option in spec.options)):
        if not is_name(name):
            raise UserError(f"{owner} has the name {name!r}: take small letters, digits, - and _")
    if len({*names}) < len(names):
        raise UserError(f"{owner} has the dataset {spec.name!r} and a task under one name: rename one of them")
    for source in spec.sources:
        if source not in SOURCES:
            raise UserError(f"{owner} draws {spec.name!r} from {source!r}: there are {', '.join(SOURCES)}")

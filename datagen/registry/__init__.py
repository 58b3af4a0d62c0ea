"""The datasets and tasks by name: those that are built in, those of installed packages, those of files.

Adding a built-in one is a file in `datagen/tasks/` and its name here. A package is loaded when its dataset is named,
and a file when its path is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.common.errors import UserError, suggest
from datagen.registry.code import (
    Code,
    check_spec,
    explain,
    installed,
    is_same,
    load_installed,
    package_of,
    points_of,
    read_code,
    run_file,
)
from datagen.task import DatasetSpec, Task
from datagen.tasks import check, counting, digits, messages, pages, words, zoom
from datagen.tasks.judges import OWN

BUILT_IN = (
    digits.DIGITS,
    counting.COUNTING,
    words.WORDS,
    messages.MESSAGES,
    zoom.ZOOM_DATASET,
    check.CHECK,
    pages.PAGES_DATASET,
)
DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in BUILT_IN}
"""The datasets that are loaded, by name: those that are built in, and others once they were named."""
TASKS: dict[str, Task] = {task.name: task for spec in BUILT_IN for task in spec.tasks}
CODE: dict[str, Code] = {}
"""Where the loaded datasets come from, by name; those that are built in are not in it."""


def find_dataset(name: str) -> DatasetSpec:
    """The dataset of that name: built in, of your own images, of an installed package, or of a file that was added.

    `FILE.py:VARIABLE` adds the file, and is the dataset in that variable; `FILE.py` is the only one in it.

    Raises:
        UserError: where there is none (it names the nearest one), there are two, or its code can't be loaded.
    """
    if is_file_name(name):
        return _dataset_in(name)
    if name in OWN:
        return OWN[name]
    points = installed().get(name, [])
    owners = [package_of(point) for point in points]
    if name in DATASETS and owner_of(name) not in owners:
        owners.insert(0, owner_of(name))
    if len(owners) > 1:
        raise _clash(name, *owners)
    if name not in DATASETS:
        if not points:
            raise UserError(_unknown("dataset", name, known_datasets()))
        _add(*load_installed(points[0]))
    return DATASETS[name]


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file with datasets, or of a variable in one."""
    return name.partition(":")[0].endswith(".py")


def known_datasets() -> list[str]:
    """The names of all datasets that can be found; nothing is loaded."""
    return [*DATASETS, *OWN, *(name for name in installed() if name not in {**DATASETS, **OWN})]


def owner_of(name: str) -> str:
    """Whose a loaded dataset is, as a sentence names it."""
    return str(CODE[name]) if name in CODE else "r1vlm"


def add_file(file: str | Path | Code) -> dict[str, DatasetSpec]:
    """Run a file, and add the datasets in it; returns them by the names of their variables.

    The same file again changes nothing; one that was edited takes the place of what it was.

    Raises:
        UserError: where it can't be read or run, has no dataset, or a name in it is taken.
    """
    code = file if isinstance(file, Code) else read_code(file)
    found = {key: spec for key, spec in run_file(code).items() if spec not in BUILT_IN}
    if not found:
        raise UserError(f"{code} defines no dataset: give it a variable that is a datagen.task.DatasetSpec")
    names = [spec.name for spec in found.values()]
    for spec in found.values():
        if names.count(spec.name) > 1:
            raise _clash(spec.name, *(f"{key} in {code}" for key in found if found[key].name == spec.name))
        _add(spec, code)
    return found


def _dataset_in(name: str) -> DatasetSpec:
    path, _, variable = name.partition(":")
    found = add_file(path)
    if not variable and len(found) > 1:
        raise UserError(f"{path} has several datasets: name one, {' or '.join(f'{path}:{key}' for key in found)}")
    if variable and variable not in found:
        raise UserError(f"{path} has no dataset {variable!r}: {suggest(variable, list(found))}")
    return find_dataset(found[variable].name if variable else next(iter(found.values())).name)


def _add(spec: DatasetSpec, code: Code) -> None:
    check_spec(spec, str(code))
    register(spec, code)


def register(spec: DatasetSpec, code: Code) -> None:
    """Let a dataset be found by its name, and its tasks by theirs.

    Raises:
        UserError: where one of these names is taken; it names both owners.
    """
    if spec.name in DATASETS and not is_same(CODE.get(spec.name), code):
        raise _clash(spec.name, owner_of(spec.name), str(code))
    for other in (*DATASETS.values(), *OWN.values()):
        taken = {other.name, *(task.name for task in other.tasks)} & {spec.name, *(task.name for task in spec.tasks)}
        if taken and other.name != spec.name:
            raise _clash(sorted(taken)[0], owner_of(other.name), str(code))
    for task in DATASETS[spec.name].tasks if spec.name in DATASETS else ():
        del TASKS[task.name]  # of the file before it was edited
    DATASETS[spec.name] = spec
    TASKS.update({task.name: task for task in spec.tasks})
    CODE[spec.name] = code


class NameClashError(UserError):
    """Two owners give something one name."""

    name = ""


def _clash(name: str, *owners: str) -> NameClashError:
    error = NameClashError(
        f"{name!r} is the name of a dataset or a task of {' and of '.join(owners)}: rename one, uninstall its package, "
        "or leave out its file"
    )
    error.name = name
    return error


@contextmanager
def registered(spec: DatasetSpec) -> Iterator[None]:
    """Inside, a dataset is found by its name and its tasks by theirs, whatever else is called so."""
    datasets, tasks = dict(DATASETS), dict(TASKS)
    DATASETS[spec.name] = spec
    TASKS.update({task.name: task for task in spec.tasks})
    try:
        yield
    finally:
        DATASETS.clear()
        DATASETS.update(datasets)
        TASKS.clear()
        TASKS.update(tasks)


@contextmanager
def errors_explained(dataset: str) -> Iterator[None]:
    """Inside, what the code of a dataset raises is a `UserError` that says where; of a built-in one, our mistake."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if dataset not in CODE:
            raise
        where = explain(error, CODE[dataset].path)
        raise UserError(f"{CODE[dataset]} raises: {where} (look with  r1vlm-data check)") from error


def loaded_code() -> list[Code]:
    """The code of all datasets that are loaded and not built in: what another process needs (see `receive_code`)."""
    return list(dict.fromkeys(CODE.values()))


def receive_code(codes: list[Code]) -> None:
    """Have the datasets that another process has: a file comes with it, a package must be installed here, the same.

    Raises:
        UserError: where a package is not, or is another version.
    """
    for code in codes:
        if code.package is None:
            add_file(code)
        elif not any(load_installed(point)[1].sha256 == code.sha256 for point in points_of(code.package)):
            raise UserError(f"{code} is not installed here, or is another: install the same on all nodes")


def load_all() -> dict[str, UserError]:
    """Load the datasets of all installed packages; returns why some can't be, by the dataset's name."""
    errors = {}
    for name in known_datasets():
        try:
            find_dataset(name)
        except UserError as error:
            errors[name] = error
    return errors


def reward_names(tasks: list[str]) -> list[str]:
    """The names of all rewards of the tasks of those names, each once, in order."""
    return list(dict.fromkeys(name for task in tasks for name in find_task(task).rewards))


def find_dataset_or_task(name: str) -> DatasetSpec:
    """The dataset of that name (see `find_dataset`), or the one that asks the task of that name.

    Raises:
        UserError: where `name` is neither; it names the nearest one.
    """
    if is_file_name(name) or name in known_datasets():
        return find_dataset(name)
    return _dataset_of_task(name, "dataset or task")


def find_task(name: str) -> Task:
    """The task of that name; a `UserError` naming the nearest one where there is none."""
    if name in OWN:
        return OWN[name].tasks[0]
    if name not in TASKS:
        _dataset_of_task(name, "task")
    return TASKS[name]


def _dataset_of_task(name: str, kind: str) -> DatasetSpec:
    """The dataset with a task; where no loaded one has it, all packages are loaded."""
    errors = {} if name in TASKS else load_all()
    for error in errors.values():
        if isinstance(error, NameClashError) and error.name == name:
            raise error
    for spec in DATASETS.values():
        if name in (task.name for task in spec.tasks):
            return spec
    more = "".join(f" ({error})" for error in errors.values())
    raise UserError(_unknown(kind, name, [*TASKS, *(DATASETS if kind != "task" else ())]) + more)


def _unknown(kind: str, name: str, known: list[str]) -> str:
    advice = suggest(name, known)
    return (
        f"there is no {kind} {name!r}: {advice}{'' if advice.endswith('?') else ', or name your file with --task-file'}"
    )

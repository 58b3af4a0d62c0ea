"""The explicit list of datasets. Adding one is a file in this folder and a line here."""

from __future__ import annotations

from datagen.common.errors import UserError, suggest
from datagen.task import DatasetSpec, Task
from datagen.tasks import counting, digits, messages, words

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec for spec in (digits.DIGITS, counting.COUNTING, words.WORDS, messages.MESSAGES)
}
TASKS: dict[str, Task] = {task.name: task for spec in DATASETS.values() for task in spec.tasks}


def find_dataset(name: str) -> DatasetSpec:
    """The dataset of that name; a `UserError` naming the nearest one where there is none."""
    if name not in DATASETS:
        raise UserError(f"there is no dataset {name!r}: {suggest(name, list(DATASETS))}")
    return DATASETS[name]


def reward_names(tasks: list[str]) -> list[str]:
    """The names of all rewards of the tasks of those names, each once, in order."""
    return list(dict.fromkeys(name for task in tasks for name in TASKS[task].rewards))


def find_dataset_or_task(name: str) -> DatasetSpec:
    """The dataset of that name, or the one that asks the task of that name.

    Raises:
        UserError: where `name` is neither; it names the nearest one.
    """
    for spec in DATASETS.values():
        if name in (spec.name, *(task.name for task in spec.tasks)):
            return spec
    raise UserError(f"there is no dataset or task {name!r}: {suggest(name, [*DATASETS, *TASKS])}")


def find_task(name: str) -> Task:
    """The task of that name; a `UserError` naming the nearest one where there is none."""
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}: {suggest(name, list(TASKS))}")
    return TASKS[name]

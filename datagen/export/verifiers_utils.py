"""What an exported package does for verifiers: which questions there are, what is shown, and what was earned.

`r1vlm-data export verifiers` copies this file into the package that it writes. It knows nothing of verifiers: prompts,
observations and rewards are those of training and of `r1vlm-eval`, from the r1vlm beside verifiers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from datagen.dataset.reader import BuiltDataset, open_dataset, tasks_of
from datagen.environment import Environment, replay
from datagen.export.code import load_code
from datagen.interaction import Observation, image_url_part, observation_parts, question_images
from datagen.r1_format import full_message, with_image, with_reasoning
from datagen.registry import find_task
from datagen.task import score

if TYPE_CHECKING:
    from datasets import Dataset

load_code(__file__)


@cache
def _opened(data: str, split: str) -> tuple[BuiltDataset, Dataset]:
    built = open_dataset(data)
    return built, built.questions(split)


def rows(data: str, split: str, only: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a split of a folder or repository with their indices: of the task `only`, or of a dataset's all.

    Raises:
        UserError: where there is no such dataset or task.
    """
    built, questions = _opened(data, split)
    tasks = tasks_of(built, only)
    for index, task in enumerate(questions["task"]):
        if task in tasks:
            yield index, questions[index]


def row_of(data: str, split: str, index: int) -> Mapping[str, Any]:
    """One of these rows."""
    row: Mapping[str, Any] = _opened(data, split)[1][index]
    return row


def ask(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A question: the system message's text, and the user's message, with the images before the text."""
    images = (image_url_part(image.convert("RGB")) for image in question_images(row))
    system, user = with_image(row["prompt"], *images)
    return system["content"][0]["text"], user


def begin(row: Mapping[str, Any]) -> Environment:
    """An episode about a row that has just begun."""
    environment = Environment(find_task(row["task"]))
    environment.reset(row)
    return environment


def user_turn(seen: Observation) -> dict[str, Any]:
    """What is shown in answer to a message, as the user's."""
    return {"role": "user", "content": observation_parts(seen, image_url_part)}


def said(reasoning: str | None, content: str | None) -> str:
    """The full assistant message of what a server gave.

    What a model generates comes after the opening words, which its chat template ends the prompt with.
    """
    return full_message(with_reasoning(reasoning, content) or "")


def judge(messages: Sequence[str], row: Mapping[str, Any]) -> dict[str, float]:
    """Each reward of the row's task for the episode in which these full assistant messages are said."""
    task = find_task(row["task"])
    return score(task, replay(task, messages, row), row)

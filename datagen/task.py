"""What a task and a dataset are made of; the instances are in `datagen/tasks/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datagen.common.code_hash import code_hash
from datagen.common.options import Option
from datagen.interaction import Episode, Interaction

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

GroundTruth = Mapping[str, Any]
"""The ground truth of an example: the columns of its row that the drawing fixed."""

Reward = Callable[[Any, GroundTruth], float]
"""(full assistant message, example) -> a number in [0, 1]. Pure and total: any text whatever gets a number.

Rewards of a task of several turns get the whole `Episode` in place of the message.
"""

HASH_PREFIX = "v2-"


@dataclass(frozen=True)
class DrawnExample:
    """What is drawn for one example: the image, and the ground truth as typed columns.

    `regions` says where the image shows a text that a trace reads off it (see `DatasetSpec.reads`): its boxes, x1, y1,
    x2, y2 in pixels. They are not stored.
    """

    image: Image.Image
    truth: dict[str, Any]
    regions: Mapping[str, Sequence[tuple[int, int, int, int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of a table: its Arrow type (a list of one type is a list column), and what it holds, with the unit."""

    kind: Any
    meaning: str


@dataclass(frozen=True)
class Task:
    """A question about a drawing, and how its answer is judged.

    `ask` gives the question about an example, `example_answer` an answer that is never right and shows the form;
    `solve` gives a trace of reasoning: put into the R1 format with `answer`, it earns full marks. `applies_to` says
    which examples of the dataset the question is about; all of them, unless it says otherwise. A task of several turns
    has an `interaction`: `solve` and `answer` are then about its last message, and its rewards judge the episode.
    """

    name: str
    summary: str
    ask: Callable[[GroundTruth], str]
    example_answer: str
    answer: Callable[[GroundTruth], str]
    solve: Callable[[GroundTruth], str]
    rewards: Mapping[str, Reward]
    applies_to: Callable[[GroundTruth], bool] = lambda _: True
    interaction: Interaction | None = None

    @property
    def turns(self) -> int:
        """The messages of an episode at most."""
        return self.interaction.turns if self.interaction else 1

    @property
    def has_tool(self) -> bool:
        """Whether something may be asked for in its episodes."""
        return self.interaction is not None and bool(self.interaction.usage)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset that can be built.

    `draw` is a pure function of (random stream, source material of the split, options); None where the images are not
    drawn, but imported. `sources` are the names of the materials it can be drawn from, the default first. `raw_columns`
    are the columns that a drawing adds to `raw`, `r1_columns` the names of those that come along in `r1`; `difficulty`
    is the column a slice goes by. What the `disjoint` columns hold may occur in one split only; the build proves it.
    `counterfactual` draws an example again with a change in its image that changes the right answer, so that an
    evaluation can see whether a model looks there: a function of (random stream, row of `r1`, options) to the new image
    and the columns that change; `exchanged` names what it exchanges two of. `notes` are paragraphs of the card.
    `several_images` says that a question shows a list of images, in the column `images` in place of `image`; of those
    that are drawn it shows one. `reads` matches, in the reasoning of a trace, each text that is read off the image just
    then; `DrawnExample.regions` says where each stands.
    """

    name: str
    version: str
    summary: str
    draw: Callable[[np.random.Generator, Any, Mapping[str, Any]], DrawnExample] | None
    sources: tuple[str, ...]
    options: tuple[Option, ...]
    raw_columns: Mapping[str, Column]
    r1_columns: tuple[str, ...]
    difficulty: str
    disjoint: tuple[str, ...]
    tasks: tuple[Task, ...]
    counterfactual: Callable[[np.random.Generator, GroundTruth, Mapping[str, Any]], DrawnExample] | None = None
    exchanged: str = "letters"
    notes: str = ""
    several_images: bool = False
    reads: re.Pattern[str] | None = None

    @property
    def image_column(self) -> str:
        """The column of what a question shows."""
        return "images" if self.several_images else "image"

    @property
    def has_turns(self) -> bool:
        """Whether it has tasks of several turns."""
        return any(task.interaction is not None for task in self.tasks)

    @property
    def has_tool(self) -> bool:
        """Whether it has tasks in which something may be asked for."""
        return any(task.has_tool for task in self.tasks)


class RewardRangeError(ValueError):
    """A reward gave a number outside [0, 1]: a mistake in the task, of which `reward` is the reward's name."""

    def __init__(self, task: str, reward: str, value: float) -> None:
        super().__init__(f"the reward {reward!r} of task {task!r} gave {value}, which is not in [0, 1]")
        self.reward = reward


def score(task: Task, said: str | Episode, example: GroundTruth) -> dict[str, float]:
    """Every reward of the task by its name, each in [0, 1], for a full assistant message or for an episode.

    Of a task of one turn the last message of an episode is judged. Where a task has several turns, a message alone is
    an episode without calls.

    Raises:
        RewardRangeError: where a reward gives a number outside [0, 1], or none (NaN).
    """
    if task.interaction is None:
        judged: str | Episode = said.final if isinstance(said, Episode) else said
    else:
        judged = said if isinstance(said, Episode) else Episode([said])
    scores = {}
    for name, reward in task.rewards.items():
        value = float(reward(judged, example))
        if not 0.0 <= value <= 1.0:
            raise RewardRangeError(task.name, name, value)
        scores[name] = value
    return scores


def reward_hash(task: Task) -> str:
    """`v2-` and 16 hexadecimal digits, which change when the code that judges `task` changes.

    It covers the rewards, and what they call or name in `datagen` or in their own package; comments, docstrings and the
    rest of the task (drawing, question, solution) do not count. Of a task of several turns it covers what comes back to
    a message too, and how many messages there may be. A checkpoint records it, and the evaluation says so where it
    differs.
    """
    return HASH_PREFIX + code_hash(judges_of(task), "datagen")[:16]


def judges_of(task: Task) -> dict[str, Any]:
    """What a task's scores depend on, by name: its rewards, and, in several turns, what comes back and how often."""
    several = task.interaction
    if several is None:
        return {**task.rewards}
    return {
        **task.rewards,
        "what comes back": several.respond,
        "to which messages": several.goes_on,
        "messages": several.turns,
    }


def is_current_reward_hash(recorded: str) -> bool:
    """Whether a recorded hash is of the kind of `reward_hash`; the older kind covered whole source files."""
    return recorded.startswith(HASH_PREFIX)

"""The one place where an episode is played: of any task, also of one that ends with the first message.

Whoever plays one does it by `advance`: the trainer through an `Environment`, the evaluation, and what replays messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datagen import r1_format
from datagen.interaction import Episode, Observation
from datagen.task import Task


class Environment:
    """One episode of a task: `reset` begins it, `step` takes a message and gives what comes back.

    `episode` is what was said so far. A task of one turn ends with its first message.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.row: Mapping[str, Any] = {}
        self.episode = Episode()

    def reset(self, row: Mapping[str, Any]) -> None:
        """Begin an episode about a row of `r1`, whose images may be decoded or still bytes."""
        self.row = row
        self.episode = Episode()

    def step(self, message: str) -> Observation | None:
        """Take a full assistant message; returns what comes back, or None where the episode is over."""
        return advance(self.task, self.episode, message, self.row)


def advance(task: Task, episode: Episode, message: str, row: Mapping[str, Any]) -> Observation | None:
    """Add a full assistant message to an episode, and what comes back, which is returned; None where it is over.

    Raises:
        ValueError: where it was over before.
    """
    if len(episode.messages) > len(episode.observations):
        raise ValueError("the episode is over")
    episode.messages.append(message)
    interaction = task.interaction
    if interaction is None or len(episode.messages) >= interaction.turns or not interaction.goes_on(message):
        return None
    seen = interaction.respond(episode, row)
    if seen is not None:
        episode.observations.append(seen)
    return seen


def replay(task: Task, messages: Sequence[str], row: Mapping[str, Any]) -> Episode:
    """The episode in which a model says these full messages. Those behind its end are left out."""
    episode = Episode()
    for message in messages:
        if advance(task, episode, message, row) is None:
            break
    return episode


def trace_of(task: Task, row: Mapping[str, Any]) -> Episode:
    """The episode of the trace that a row of `r1` holds: its `turns`, where it has any, and its `solution`.

    Raises:
        ValueError: where the episode is over before the solution.
    """
    messages = [*(row.get("turns") or ()), row["solution"]]
    episode = replay(task, messages, row)
    if episode.messages != messages:
        raise ValueError(f"the trace of {row['id']} goes on behind the end of its episode")
    return episode


def solution_messages(task: Task, row: Mapping[str, Any]) -> list[str]:
    """The trace of a row, one full assistant message a turn."""
    before = task.interaction.plan(row) if task.interaction else ()
    return [*before, r1_format.format_solution(task.solve(row), task.answer(row))]

"""The one place where an episode is played: of any task, also of one that ends with the first message.

The trainer, the evaluation, an exported environment and a person at the terminal all drive an `Environment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datagen import r1_format
from datagen.interaction import Episode, Observation, format_call
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
        self.episode.messages.append(message)
        interaction = self.task.interaction
        if interaction is None or len(self.episode.messages) >= interaction.turns:
            return None
        seen = interaction.respond(self.episode, self.row)
        if seen is not None:
            self.episode.observations.append(seen)
        return seen


def replay(task: Task, messages: Sequence[str], row: Mapping[str, Any]) -> Episode:
    """The episode in which a model says these full messages. Those behind its end are left out."""
    environment = Environment(task)
    environment.reset(row)
    for message in messages:
        if environment.step(message) is None:
            break
    return environment.episode


def trace_of(task: Task, row: Mapping[str, Any]) -> Episode:
    """The episode of the trace that a row of `r1` holds: its `turns`, where it has any, and its `solution`."""
    return replay(task, [*(row.get("turns") or ()), row["solution"]], row)


def solution_messages(task: Task, row: Mapping[str, Any]) -> list[str]:
    """The trace of a row, one full assistant message a turn."""
    plan = task.interaction.plan(row) if task.interaction else ()
    last = r1_format.format_solution(task.solve(row), task.answer(row))
    return [*(format_call(reasoning, call) for reasoning, call in plan), last]

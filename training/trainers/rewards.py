"""The only module that knows how TRL calls a reward: `datagen`'s rewards in TRL's convention, with a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datagen.common.files import naming
from datagen.environment import replay
from datagen.interaction import Episode
from datagen.r1_format import full_message
from datagen.registry import find_task, reward_names
from datagen.task import Task, score

TRLReward = Callable[..., list[float]]
Scores = list[dict[str, float]]


def episode_of(task: Task, completion: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Episode:
    """The episode of TRL's messages. Observations are made anew from the row, not taken from them."""
    said = [full_message(message["content"]) for message in completion if message["role"] == "assistant"]
    return replay(task, said, row)


class RewardFunctions:
    """The rewards of some tasks as TRL reward functions, each completion judged once, by its own row's task.

    Every batch is appended to `log` as JSON lines `{"step", "id", "completion", "rewards"}`, with the full assistant
    message as completion; of a task of several turns that is the last message, and `turns` are those before.
    """

    def __init__(self, tasks: list[str], log: Path | None = None) -> None:
        self.names = reward_names(tasks)
        self.log = log
        self._completions: list[Any] | None = None
        self._scores: Scores = []

    def functions(self) -> list[TRLReward]:
        """One function a reward, in the order of `names`."""
        return [self._function(name) for name in self.names]

    def _function(self, name: str) -> TRLReward:
        def reward(completions: list[Any], **columns: Any) -> list[float]:
            if completions is not self._completions:  # TRL gives all of its reward functions one and the same batch
                self._scores = self._score(completions, columns)
                self._completions = completions
            return [scores[name] for scores in self._scores]

        reward.__name__ = name
        return reward

    def _score(self, completions: list[Any], columns: dict[str, Any]) -> Scores:
        count = len(completions)
        keys = [key for key, column in columns.items() if isinstance(column, list) and len(column) == count]
        rows = [{key: columns[key][i] for key in keys} for i in range(count)]
        episodes = [
            episode_of(find_task(row["task"]), completion, row)
            for completion, row in zip(completions, rows, strict=True)
        ]
        scores = [score(find_task(row["task"]), episode, row) for episode, row in zip(episodes, rows, strict=True)]
        if self.log is not None:
            self._append(self.log, columns["trainer_state"].global_step + 1, episodes, rows, scores)
        return scores

    def _append(
        self, log: Path, step: int, episodes: list[Episode], rows: list[dict[str, Any]], scores: Scores
    ) -> None:
        lines = []
        for episode, row, scored in zip(episodes, rows, scores, strict=True):
            rewards = {name: scored[name] for name in self.names}
            line = {"step": step, "id": row["id"], "completion": episode.final, "rewards": rewards}
            if find_task(row["task"]).interaction is not None:
                line["turns"] = episode.messages[:-1]
            lines.append(json.dumps(line) + "\n")
        with naming(log), log.open("ab", buffering=0) as file:  # in one go: other processes append to the same file
            file.write("".join(lines).encode())

"""The only module that knows how TRL calls a reward: `datagen`'s rewards in TRL's convention, with a log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datagen.common.files import naming
from datagen.r1_format import full_message
from datagen.registry import find_task, reward_names
from datagen.task import score

TRLReward = Callable[..., list[float]]
Scores = list[dict[str, float]]


class RewardFunctions:
    """The rewards of some tasks as TRL reward functions, each completion judged once, by its own row's task.

    Every batch is appended to `log` as JSON lines `{"step", "id", "completion", "rewards"}`, with the full assistant
    message as completion.
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
        messages = [full_message(completion[0]["content"]) for completion in completions]
        keys = [key for key, column in columns.items() if isinstance(column, list) and len(column) == len(messages)]
        rows = [{key: columns[key][i] for key in keys} for i in range(len(messages))]
        scores = [score(find_task(row["task"]), message, row) for message, row in zip(messages, rows, strict=True)]
        if self.log is not None:
            self._append(self.log, columns["trainer_state"].global_step + 1, messages, rows, scores)
        return scores

    def _append(self, log: Path, step: int, messages: list[str], rows: list[dict[str, Any]], scores: Scores) -> None:
        lines = []
        for message, row, scored in zip(messages, rows, scores, strict=True):
            rewards = {name: scored[name] for name in self.names}
            lines.append(json.dumps({"step": step, "id": row["id"], "completion": message, "rewards": rewards}) + "\n")
        with naming(log), log.open("ab", buffering=0) as file:  # in one go: other processes append to the same file
            file.write("".join(lines).encode())

"""The only module that knows how TRL calls a reward: `datagen`'s rewards in TRL's convention, with a log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datagen.r1_format import full_message
from datagen.registry import TASKS, reward_names

TRLReward = Callable[..., list[float]]


class RewardFunctions:
    """The rewards of some tasks as TRL reward functions, each completion judged by its own row's task.

    Every batch that all of the functions have judged is appended to `log` as JSON lines
    `{"step", "id", "completion", "rewards"}`, with the full assistant message as completion.
    """

    def __init__(self, tasks: list[str], log: Path | None = None) -> None:
        self.names = reward_names(tasks)
        self.log = log
        self._judged: dict[str, list[float]] = {}

    def functions(self) -> list[TRLReward]:
        """One function a reward, in the order of `names`."""
        return [self._function(name) for name in self.names]

    def _function(self, name: str) -> TRLReward:
        def reward(completions: list[Any], **columns: Any) -> list[float]:
            messages = [full_message(completion[0]["content"]) for completion in completions]
            keys = [key for key, column in columns.items() if isinstance(column, list) and len(column) == len(messages)]
            rows = [{key: columns[key][i] for key in keys} for i in range(len(messages))]
            values = [
                TASKS[row["task"]].rewards[name](message, row) for message, row in zip(messages, rows, strict=True)
            ]
            self._note(name, values, messages, rows, columns)
            return values

        reward.__name__ = name
        return reward

    def _note(
        self, name: str, values: list[float], messages: list[str], rows: list[dict[str, Any]], columns: dict[str, Any]
    ) -> None:
        self._judged[name] = values
        if len(self._judged) < len(self.names):
            return
        judged, self._judged = self._judged, {}
        if self.log is None:
            return
        step = columns["trainer_state"].global_step + 1
        lines = []
        for i, (message, row) in enumerate(zip(messages, rows, strict=True)):
            rewards = {reward: scores[i] for reward, scores in judged.items()}
            line = {"step": step, "id": row["id"], "completion": message, "rewards": rewards}
            lines.append(json.dumps(line) + "\n")
        with self.log.open("ab", buffering=0) as file:  # in one go: other processes append to the same file
            file.write("".join(lines).encode())

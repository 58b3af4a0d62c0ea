"""TRL's calling convention: each completion is judged by its own row's task, opening words included."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.trainers.rewards import RewardFunctions


def call(judge: RewardFunctions, completions: list[str], **columns: Any) -> dict[str, list[float]]:
    messages = [[{"role": "assistant", "content": text}] for text in completions]
    state = SimpleNamespace(global_step=4)
    return {
        function.__name__: function(prompts=[], completions=messages, trainer_state=state, log_extra=None, **columns)
        for function in judge.functions()
    }


def test_each_row_is_judged_by_its_own_task_and_logged_once(tmp_path: Path) -> None:
    log = tmp_path / "completions.jsonl"
    right_sum, right_list = "2 + 3 = 5.</think>\n<answer>5</answer>", "</think><answer>[2, 3]</answer>"
    got = call(
        RewardFunctions(["list", "sum"], log),
        [right_sum, right_sum, right_list, "<think>" + right_list],
        task=["sum", "list", "list", "list"],
        id=["a", "b", "c", "d"],
        digits=[[3, 2]] * 4,
    )
    assert got == {"format": [1, 1, 1, 0], "correctness": [1, 0, 1, 1]}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[0] == {
        "step": 5,
        "id": "a",
        "completion": "Let me solve this step by step.\n<think>" + right_sum,
        "rewards": {"format": 1.0, "correctness": 1.0},
    }


def test_a_reward_that_raises_stops_the_run() -> None:
    with pytest.raises(KeyError):
        call(RewardFunctions(["sum"]), ["</think><answer>5</answer>"], task=["sum"], id=["a"])

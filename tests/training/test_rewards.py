"""TRL's calling convention: each completion is judged by its own row's task, opening words included."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datagen.task import score
from training.trainers import rewards
from training.trainers.rewards import RewardFunctions
from training.trl_compat import REFERENCE, reference_from_checkpoint


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


def test_a_completion_is_judged_once_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    judged: list[str] = []

    def count(task: Any, message: str, example: Any) -> dict[str, float]:
        judged.append(message)
        return score(task, message, example)

    monkeypatch.setattr(rewards, "score", count)
    functions = RewardFunctions(["sum"], tmp_path / "log")
    for batch in (["</think><answer>5</answer>", "</think><answer>6</answer>"], ["</think><answer>5</answer>"]):
        size = len(batch)
        got = call(functions, batch, task=["sum"] * size, id=["a"] * size, digits=[[3, 2]] * size)
        assert got["correctness"] == [1, 0][:size]
    assert len(judged) == 3
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_reference_is_restored_where_the_trainer_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / REFERENCE).mkdir()
    model = SimpleNamespace(config=SimpleNamespace(name_or_path="small"))

    def fail() -> None:
        with reference_from_checkpoint(model, tmp_path):
            assert model.config.name_or_path == str(tmp_path / REFERENCE)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.config.name_or_path == "small"

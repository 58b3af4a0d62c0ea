"""What every dataset and every task in the list keeps; no task is named here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from datagen import r1_format
from datagen.dataset.reward_audit import ATTACKS
from datagen.registry import DATASETS, TASKS
from datagen.task import DatasetSpec, GroundTruth, is_current_reward_hash, reward_hash
from datagen.testing import check_dataset


@pytest.fixture(params=DATASETS.values(), ids=list(DATASETS))
def spec(request: pytest.FixtureRequest) -> DatasetSpec:
    """Each dataset in turn."""
    found: DatasetSpec = request.param
    return found


def test_every_dataset_keeps_the_contract(spec: DatasetSpec) -> None:
    assert check_dataset(spec) == []


def test_names_are_unique() -> None:
    assert len(TASKS) == sum(len(one.tasks) for one in DATASETS.values())
    assert not set(TASKS) & {*DATASETS, "all"}


def test_the_attacks_are_all_there() -> None:
    assert len(ATTACKS) >= 60


def test_the_reward_hash_covers_every_reward_and_nothing_but_them(
    spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harsh(message: str, example: GroundTruth) -> float:
        return 0.0

    for task in spec.tasks:
        before = reward_hash(task)
        assert is_current_reward_hash(before)
        assert reward_hash(replace(task, ask=str, solve=str, answer=str, summary="", example_answer="")) == before
        for name in task.rewards:
            assert reward_hash(replace(task, rewards={**task.rewards, name: harsh})) != before
        with monkeypatch.context() as patch:
            patch.setattr(r1_format, "TAGS", r1_format.TAGS[:3])  # a constant of a function of another module
            assert reward_hash(task) != before
            patch.undo()
            patch.setattr(r1_format, "ENDS_WITH_COLON", None)  # of no reward
            assert reward_hash(task) == before


def test_the_reward_hash_is_the_same_in_every_process() -> None:
    expected = {name: reward_hash(task) for name, task in TASKS.items()}
    program = "from tests.test_contract import *; print({name: reward_hash(task) for name, task in TASKS.items()})"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == expected

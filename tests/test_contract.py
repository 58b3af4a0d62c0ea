"""What every dataset and every task in the list keeps; no task is named here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from datagen import r1_format
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reward_audit import audit
from datagen.dataset.shards import make_questions, raw_row
from datagen.registry import DATASETS, TASKS
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, GroundTruth, is_current_reward_hash, reward_hash, score


@pytest.fixture(params=DATASETS.values(), ids=list(DATASETS))
def spec(request: pytest.FixtureRequest) -> DatasetSpec:
    """Each dataset in turn."""
    found: DatasetSpec = request.param
    return found


def rows(spec: DatasetSpec, split: str = "test", count: int = 30, seed: int = 5) -> list[dict[str, Any]]:
    config = DatasetConfig(dataset=spec.name, size=1000, seed=seed)
    return [raw_row(config, split, index) for index in range(count)]


def test_names_are_unique(spec: DatasetSpec) -> None:
    assert len(TASKS) == sum(len(one.tasks) for one in DATASETS.values())
    assert not set(TASKS) & {*DATASETS, "all"}


def test_drawing_is_a_pure_function_of_the_stream(spec: DatasetSpec) -> None:
    assert rows(spec) == rows(spec)
    images = [{row["image"]["bytes"] for row in rows(spec, split, seed=seed)} for split in SPLITS for seed in (1, 2)]
    assert len(set().union(*images)) == sum(map(len, images)) == 30 * 6


def test_columns_are_those_declared(spec: DatasetSpec) -> None:
    assert {*spec.r1_columns, *spec.disjoint} <= set(spec.raw_columns)
    assert spec.difficulty in spec.r1_columns
    for row in rows(spec):
        assert set(row) == {"id", "image", *spec.raw_columns}
        questions = make_questions(spec, [row])
        assert (
            [question["task"] for question in questions]
            == [task.name for task in spec.tasks if task.applies_to(row)]
            != []
        )
        for question in questions:
            task = TASKS[question["task"]]
            assert set(spec.r1_columns) <= set(question)
            assert [message["role"] for message in question["prompt"]] == ["system", "user"]
            assert task.ask(row) in question["prompt"][1]["content"]
    assert {question["task"] for question in make_questions(spec, rows(spec))} == {task.name for task in spec.tasks}


def test_every_solution_earns_full_marks(spec: DatasetSpec) -> None:
    for question in make_questions(spec, rows(spec)):
        task = TASKS[question["task"]]
        assert {"format", "correctness"} <= set(task.rewards)
        assert score(task, question["solution"], question) == dict.fromkeys(task.rewards, 1.0)
        assert question["answer"] == r1_format.extract_answer(question["solution"])


def test_no_attack_earns_more_than_the_honest_message_it_replaces(spec: DatasetSpec) -> None:
    asked = make_questions(spec, rows(spec, count=12))
    for task in spec.tasks:
        findings = audit(task, [question for question in asked if question["task"] == task.name])
        assert len(findings) >= 60
        assert [(finding.attack, finding.broke) for finding in findings if finding.broke] == []
        assert max(finding.most["correctness"] for finding in findings if finding.undue) == 0.0


def test_what_must_be_disjoint_follows_from_the_split(spec: DatasetSpec) -> None:
    seen: dict[str, dict[str, set[str]]] = {column: {} for column in spec.disjoint}
    for split in SPLITS:
        for row in rows(spec, split):
            for column in spec.disjoint:
                values = row[column] if isinstance(row[column], list) else [row[column]]
                seen[column].setdefault(split, set()).update(values)
    for column, values in seen.items():
        assert sum(map(len, values.values())) == len(set().union(*values.values())), column


def test_listing_every_answer_earns_nothing(spec: DatasetSpec) -> None:
    asked = make_questions(spec, rows(spec))
    for task in spec.tasks:
        own = [question for question in asked if question["task"] == task.name]
        answers = sorted({question["answer"] for question in own})
        assert len(answers) > 1
        everything = r1_format.format_solution("all", " ".join(answers))
        many = r1_format.OPENING + "</think>" + "".join(f"<answer>{answer}</answer>" for answer in answers)
        for question in own:
            for text in (everything, many):
                assert task.rewards["correctness"](text, question) == 0.0


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

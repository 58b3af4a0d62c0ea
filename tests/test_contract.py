"""What every dataset and every task in the list keeps; no task is named here."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import pytest

from datagen import r1
from datagen.build import make_recipe, r1_row, raw_row
from datagen.sources import SPLITS, Glyphs, load_glyphs
from datagen.task import DatasetSpec, reward_hash
from datagen.tasks import DATASETS, TASKS

HOSTILE = [
    "",
    " ",
    "<think></think>",
    "<answer></answer>",
    "</answer></think><answer><think>",
    r1.OPENING,
    r1.OPENING * 50,
    "\x00\ud83d\x1b[31m",
    "<think>" * 1000 + "<answer>" * 1000,
    "<think>a</think><answer>" + "0" * 10_000 + "</answer>",
    "<think>a</think><answer>" + "[" * 10_000 + "</answer>",
    "<think>a</think><answer>NaN</answer>",
    "<think>a</think><answer>-1</answer>",
]


@pytest.fixture(params=DATASETS.values(), ids=list(DATASETS))
def spec(request: pytest.FixtureRequest) -> DatasetSpec:
    """Each dataset in turn."""
    found: DatasetSpec = request.param
    return found


@cache
def glyphs_of(split: str) -> Glyphs:
    return load_glyphs("mnist-5k").of_split(split)


def rows(spec: DatasetSpec, split: str = "test", count: int = 30, seed: int = 5) -> list[dict[str, Any]]:
    recipe = make_recipe(spec.name, size=1000, seed=seed, shares=(80, 10, 10), source="mnist-5k", options={})
    return [raw_row(spec, recipe, glyphs_of(split), split, index) for index in range(count)]


def test_names_are_unique(spec: DatasetSpec) -> None:
    assert len(TASKS) == sum(len(one.tasks) for one in DATASETS.values())
    assert not set(TASKS) & set(DATASETS)


def test_drawing_is_a_pure_function_of_the_stream(spec: DatasetSpec) -> None:
    assert rows(spec) == rows(spec)
    images = [{row["image"]["bytes"] for row in rows(spec, split, seed=seed)} for split in SPLITS for seed in (1, 2)]
    assert len(set().union(*images)) == sum(map(len, images)) == 30 * 6


def test_columns_are_those_declared(spec: DatasetSpec) -> None:
    for row in rows(spec, count=3):
        assert set(row) == {"id", "image", *spec.raw_columns}
        for task in spec.tasks:
            question = r1_row(spec, task, row)
            assert set(spec.r1_columns) <= set(question)
            assert {*spec.r1_columns, spec.difficulty, *spec.disjoint} <= set(spec.raw_columns)
            assert [message["role"] for message in question["prompt"]] == ["system", "user"]
            assert task.question in question["prompt"][1]["content"]


def test_every_solution_earns_full_marks_and_hostile_text_none(spec: DatasetSpec) -> None:
    for row in rows(spec):
        for task in spec.tasks:
            question = r1_row(spec, task, row)
            assert {
                name: reward(question["solution"], question) for name, reward in task.rewards.items()
            } == dict.fromkeys(task.rewards, 1.0)
            assert task.answer(row) == question["answer"] == r1.answer_of(question["solution"])
            for text in HOSTILE:
                assert task.rewards["correctness"](text, question) == 0.0
                assert all(0.0 <= reward(text, question) <= 1.0 for reward in task.rewards.values())


def test_copying_the_prompt_or_listing_every_answer_earns_nothing(spec: DatasetSpec) -> None:
    examples = rows(spec)
    for task in spec.tasks:
        answers = sorted({task.answer(row) for row in examples})
        for row in examples:
            question = r1_row(spec, task, row)
            echo = question["prompt"][1]["content"]
            everything = r1.solution("all", " ".join(answers))
            many = r1.OPENING + "</think>" + "".join(f"<answer>{answer}</answer>" for answer in answers)
            for text in (echo, r1.OPENING + echo, everything, many):
                honest = len(answers) == 1
                assert task.rewards["correctness"](text, question) in ({0.0, 1.0} if honest else {0.0})


def test_reward_hash_changes_with_the_code_of_any_reward(spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource
    for task in spec.tasks:
        before = reward_hash(task)
        assert before == reward_hash(task)
        for reward in task.rewards.values():
            edited = inspect.getmodule(reward)
            with monkeypatch.context() as patch:
                patch.setattr(inspect, "getsource", lambda one, edited=edited: source(one) + "#" * (one is edited))
                assert reward_hash(task) != before

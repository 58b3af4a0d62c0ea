"""Which checkpoints and which questions a film shows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from evaluation.report.checkpoint_samples import MAX_QUESTIONS, pick_evenly, pick_questions, step_of


@given(st.integers(1, 100), st.integers(2, 10))
def test_checkpoints_are_evenly_apart_and_hold_both_ends(count: int, most: int) -> None:
    paths = [Path(f"run/checkpoint-{10 * i}") for i in range(count)]
    found = pick_evenly(paths, most)
    assert len(found) == min(count, most)
    assert [found[0], found[-1]] == [paths[0], paths[-1]]
    steps = [step_of(path) for path in found]
    gaps = [after - before for before, after in pairwise(steps)]
    assert steps == sorted(set(steps))
    assert not gaps or max(gaps) - min(gaps) <= 10


def test_questions_of_every_kind_come_first() -> None:
    kinds = [("sum", 1), ("sum", 1), ("list", 2), ("sum", 3), ("sum", 1), ("list", 2)]
    questions = [{"task": task, "level": level} for task, level in kinds]
    assert pick_questions(questions, "level") == [2, 0, 3, 5, 1, 4]
    assert len(pick_questions(questions * 10, "level")) == MAX_QUESTIONS

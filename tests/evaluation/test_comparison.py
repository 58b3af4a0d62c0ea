"""Two sides on the same questions, with flips that were counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.hub.cards import model_card
from evaluation.metrics.comparison import compare, paired_summary, verdict
from evaluation.metrics.external_results import external_result, mark_other_questions
from evaluation.metrics.scoring import Scored, score_messages
from evaluation.report.tables import results_table

WRONG = r1_format.format_solution("I see nothing.", "999")


@pytest.fixture
def sums(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [question for question in questions if question["task"] == "sum"]


def answered(questions: list[dict[str, Any]], wrong: set[int]) -> Scored:
    """All solved but for the questions at these places."""
    return score_messages(questions, [WRONG if i in wrong else q["solution"] for i, q in enumerate(questions)])


def test_numbers_by_hand(sums: list[dict[str, Any]]) -> None:
    found = paired_summary(answered(sums, set(range(8))), answered(sums, {0, 1, 19}))
    assert (found["n"], found["images"]) == (20, 20)
    assert (found["before"], found["after"]) == (12 / 20, 17 / 20)
    assert found["difference"] == pytest.approx(5 / 20)
    assert (found["wrong_to_right"], found["right_to_wrong"]) == (6, 1)
    assert found["p_value"] == pytest.approx(2 * (7 + 1) / 2**7)  # at least 6 of 7 heads, or at most 1
    assert found["difference_ci95"][0] < 0.25 < found["difference_ci95"][1]
    assert found["rewards"] == {
        "format": {"before": 1.0, "after": 1.0},
        "correctness": {"before": 12 / 20, "after": 17 / 20},
    }


def test_slices_hold_the_same_numbers(questions: list[dict[str, Any]], sums: list[dict[str, Any]]) -> None:
    places = [i for i, q in enumerate(questions) if q["task"] == "sum"]
    before, after = {places[i] for i in range(8)}, {places[i] for i in (0, 1, 19)}
    found = compare(answered(questions, before), answered(questions, after), "num_digits")
    alone = paired_summary(answered(sums, set(range(8))), answered(sums, {0, 1, 19}))
    by_task = {row.pop("task"): row for row in found["slices"]["by_task"]}
    assert by_task["sum"] == {**alone, "p_value_holm": 2 * alone["p_value"]}  # of two tasks
    assert by_task["list"]["difference"] == 0
    assert by_task["list"]["p_value"] == 1
    levels = found["slices"]["by_difficulty"]
    assert sum(row["wrong_to_right"] for row in levels) == found["wrong_to_right"] == 6
    assert sum(row["n"] for row in levels) == found["n"] == 40


@pytest.mark.parametrize(
    ("before", "after", "begin"),
    [
        (set(range(20)), set(), "Accuracy rose by 100.0 points, from 0.0% to 100.0% (95% interval"),
        (set(), set(range(10)), "Accuracy fell by 50.0 points, from 100.0% to 50.0% (95% interval"),
        ({0, 1}, {2, 3}, "No change in accuracy can be told: from 90.0% to 90.0% (95% interval"),
    ],
)
def test_verdict(sums: list[dict[str, Any]], before: set[int], after: set[int], begin: str) -> None:
    text = verdict(paired_summary(answered(sums, before), answered(sums, after)), {"2 points": 4321})
    assert ("about 4321 questions" in text) == begin.startswith("No change")
    assert text.startswith(begin)
    assert "20 questions about 20 images)." in text


def test_several_answers_to_a_question_are_not_several_questions(sums: list[dict[str, Any]]) -> None:
    twice = [question for question in sums for _ in range(2)]
    text = verdict(paired_summary(answered(twice, set(range(40))), answered(twice, set())), {})
    assert "40 answers to 20 questions about 20 images)." in text


def test_sides_must_answer_the_same_questions(sums: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="different questions"):
        paired_summary(answered(sums, set()), answered(sums[::-1], set()))


BESIDE = {"name": "supervised", "accuracy": 0.8, "accuracy_ci95": [0.7, 0.9], "n": 40, "shown": "All clean traces."}


def test_results_beside_tell_whether_the_questions_are_the_same() -> None:
    result = {"dataset_fingerprint": "f", "split": "test", "tasks": ["sum"], "n": 40}
    rows = [external_result(row, "x", "file") for row in (BESIDE, {**BESIDE, "n": 41}, {**BESIDE, "split": "train"})]
    assert [row["other_questions"] for row in mark_other_questions(rows, result)] == [False, True, True]
    assert mark_other_questions(rows, result)[0] == {**BESIDE, "other_questions": False}


def test_a_card_does_not_say_that_the_other_model_was_shown_less(sums: list[dict[str, Any]]) -> None:
    shown = {"before": "900 steps of GRPO.", "after": "9 steps of GRPO."}
    result = compare(answered(sums, {0}), answered(sums, set()), "num_digits")
    result |= {"data": "/data", "split": "test", "tasks": ["sum"], "shown": shown}
    record = {"stage": "grpo", "tasks": ["sum"], "step": 9, "shown": shown["after"], "dataset_fingerprint": "f"}
    card = model_card(record | {"seed": 0, "reward_hash": {}, "versions": {}, "settings": {}}, result=result)
    assert '"Before" is a model that has been shown: 900 steps of GRPO.' in card


def test_results_of_several_answers_are_on_as_many_questions() -> None:
    greedy = {"dataset_fingerprint": "f", "split": "test", "tasks": ["sum"], **BESIDE, "n": 20}
    sampled = {**greedy, "n": 40, "samples": 2}
    rows = [external_result(row, "x", "file") for row in (greedy, sampled, {**sampled, "samples": 1})]
    assert [row["other_questions"] for row in mark_other_questions(rows, greedy)] == [False, False, True]
    assert results_table(rows[:2]).count("*") == 0
    assert results_table(rows[1:]).count(" *") == 1


@pytest.mark.parametrize(
    "value",
    [
        *([], None, {}, {**BESIDE, "accuracy": "0.8"}, {**BESIDE, "accuracy": 80}, {**BESIDE, "accuracy_ci95": [0.7]}),
        *({**BESIDE, "n": 0}, {**BESIDE, "n": None}, {**BESIDE, "accuracy": float("nan")}),
    ],
)
def test_what_is_no_result(value: object) -> None:
    with pytest.raises(UserError, match=r"file\.json holds no result"):
        external_result(value, "x", "file.json")

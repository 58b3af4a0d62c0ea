"""The judges of answers about your own images: hand-computed cases, hostile completions, and properties."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.dataset.reward_audit import audit
from datagen.dataset.shards import make_questions
from datagen.r1_format import format_solution
from datagen.task import Task, reward_hash, score
from datagen.tasks.judges import JUDGES, LONGEST, OWN, UnreadableError, sample_rows
from tests.processes import invoke

BOX = '{"bbox_2d": [10, 10, 20, 20], "label": "cat"}'
CATS = f'[{BOX}, {{"bbox_2d": [50, 50, 70, 70], "label": "cat"}}]'
DOTS = '[{"point_2d": [10, 10], "label": "cat"}, [40, 40, 60, 60]]'
# judge, right answer, given answer, its rewards (correctness, and the graded one where there is one)
CASES: list[tuple[str, str, str, tuple[float, ...]]] = [
    ("exact", "a red bicycle", " A  Red bicycle. ", (1.0,)),
    ("exact", "a red bicycle", "“a red bicycle”", (1.0,)),
    ("exact", "a red bicycle", "a bicycle", (0.0,)),
    ("exact", "é", "e\u0301", (1.0,)),
    ("exact", "v2", "\uff562", (0.0,)),
    ("choice", "C", "c", (1.0,)),
    ("choice", "C", "(C)", (1.0,)),
    ("choice", "C", "C. A grey heron", (1.0,)),
    ("choice", "C", "a grey heron", (1.0,)),
    ("choice", "C", "C. a robin", (0.0,)),
    ("choice", "C", "A, B, C", (0.0,)),
    ("choice", "C", "C or B", (0.0,)),
    ("integer", "17", "+17", (1.0,)),
    ("integer", "17", "17.0", (0.0,)),
    ("integer", "17", "\u0661\u0667", (0.0,)),
    ("integer", "17", "1e1", (0.0,)),
    ("number", "1,234.5 mm", "1234.5", (1.0,)),
    ("number", "1,234.5 mm", "1 234.5 mm", (1.0,)),
    ("number", "1,234.5 mm", "1.2345e3", (1.0,)),
    ("number", "1,234.5 mm", "1234.5 cm", (0.0,)),
    ("number", "1,234.5 mm", "1234.9", (1.0,)),
    ("number", "1,234.5 mm", "1235.1", (0.0,)),
    ("number", "37.5 %", "0.375", (1.0,)),
    ("number", "37.5", "37.5%", (1.0,)),
    ("number", "-273.15", "\u2212273.15", (1.0,)),
    ("number", "5", "5 million", (0.0,)),
    ("number", "5", "5 or 6", (0.0,)),
    ("number", "5", "4.9.1", (0.0,)),
    ("number", "1", "1e999", (0.0,)),
    ("number", "1", "NaN", (0.0,)),
    ("number", "1", "inf", (0.0,)),
    ("number", "1", "1,00", (0.0,)),
    ("list", '["red", "green", "red"]', "Red, green, red", (1.0,)),
    ("list", '["red", "green", "red"]', "red, green", (0.0,)),
    ("list", "[7, 30, 2]", "[7.0, 3e1, 2]", (1.0,)),
    ("list", "[7, 30, 2]", "[2, 7, 30]", (0.0,)),
    ("list", "[7, 30, 2]", "[7, 30, [2]]", (0.0,)),
    ("list", "[]", "[]", (1.0,)),
    ("list", "[]", "none", (0.0,)),
    ("set", "[7, 30, 2]", "{2, 7, 30, 30}", (1.0,)),
    ("set", "[7, 30, 2]", "2, 7", (0.0,)),
    ("set", "[]", "[]", (1.0,)),
    ("edit", "0123456789", "0123456789", (1.0, 1.0)),
    ("edit", "0123456789", "012345678", (0.0, 0.9)),
    ("edit", "0123456789", "01234", (0.0, 0.5)),
    ("edit", "0123456789", "0123", (0.0, 0.0)),
    ("edit", "Aa", "aa", (0.0, 0.5)),
    ("boxes", CATS, CATS, (1.0, 1.0)),
    ("boxes", CATS, f"```json\n{CATS}\n```", (1.0, 1.0)),
    ("boxes", CATS, f"[{BOX}]", (0.0, 2 / 3)),
    ("boxes", CATS, BOX, (0.0, 2 / 3)),
    ("boxes", CATS, "[[10, 10, 20, 20], [50, 50, 70, 70]]", (0.0, 0.0)),
    ("boxes", "[[10, 10, 20, 20]]", "[10, 10, 20, 18]", (1.0, 0.8)),
    ("boxes", "[[10, 10, 20, 20]]", "[10, 10, 20, 14]", (0.0, 0.0)),
    ("boxes", "[[10, 10, 20, 20]]", "[20, 20, 10, 10]", (0.0, 0.0)),
    ("boxes", "[[10, 10, 20, 20]]", "[[10, 10, 20, 20], [10, 10, 20, 20], [0, 0, 1, 1]]", (0.0, 0.5)),
    ("boxes", "[[10, 10, 20, 20]]", "[[0, 0, 1, 1], [10, 10, 20, 20]]", (0.0, 0.0)),
    ("boxes", "[[10, 10, 20, 20]]", "[[NaN, 1e999, 20, 20]]", (0.0, 0.0)),
    ("boxes", "[[0, 0, 9, 9], [1, 0, 10, 9]]", "[[1, 0, 10, 9], [0, 0, 9, 9]]", (1.0, 1.0)),
    ("boxes", "[]", "[]", (1.0, 1.0)),
    ("boxes", "[]", "[[0, 0, 1, 1]]", (0.0, 0.0)),
    ("points", DOTS, '[{"point_2d": [10.3, 10.4], "label": "cat"}, [41, 59]]', (1.0, 1.0)),
    ("points", DOTS, '[{"point_2d": [10, 10], "label": "cat"}]', (0.0, 2 / 3)),
    ("points", DOTS, "[[10, 10], [60, 60]]", (0.0, 0.0)),
    ("points", DOTS, "[10, 10, 11, 11]", (0.0, 0.0)),
]


def question(judge: str, right: str, choices: list[str] | None = None) -> dict[str, Any]:
    tolerance = 0.5 if judge in ("number", "points") else 0.0
    return {"answer": right, "choices": choices or [], "tolerance": tolerance}


def task_of(judge: str) -> Task:
    return OWN[f"own-{judge}"].tasks[0]


@pytest.mark.parametrize(("judge", "right", "given", "wanted"), CASES)
def test_golden_cases(judge: str, right: str, given: str, wanted: tuple[float, ...]) -> None:
    choices = ["a robin", "a wren", "a grey heron"] if judge == "choice" else None
    found = score(task_of(judge), format_solution("So.", given), question(judge, right, choices))
    assert tuple(found.values()) == pytest.approx((1.0, *wanted))


def test_of_choices_that_are_letters_one_is_right() -> None:
    choices = ["D", "C", "B", "A"]
    for right in "ABCD":
        asked = question("choice", right, choices)
        earned = [score(task_of("choice"), format_solution("So.", one), asked)["correctness"] for one in "ABCD"]
        assert earned == [float(one == right) for one in "ABCD"]
    assert JUDGES["choice"].prepare("B", ["A", "B", "C"]) == "B"
    assert JUDGES["choice"].prepare("K", ["Na", "K"]) == "B"
    assert score(task_of("choice"), format_solution("So.", "K"), question("choice", "B", ["Na", "K"]))["correctness"]


@pytest.mark.parametrize("name", JUDGES)
def test_no_attack_earns_more_than_the_honest_message_it_replaces(name: str) -> None:
    task, rows = task_of(name), make_questions(OWN[f"own-{name}"], sample_rows(JUDGES[name]))
    assert all(set(score(task, row["solution"], row).values()) == {1.0} for row in rows)
    results = audit(task, rows)
    assert [(result.attack, result.broke) for result in results if result.broke] == []
    assert max(result.most["correctness"] for result in results if result.undue) == 0.0
    assert max(result.seconds for result in results) < 0.05


@pytest.mark.parametrize("name", JUDGES)
@given(given_answer=st.text(max_size=60) | st.sampled_from([case[2] for case in CASES]))
def test_any_text_gets_a_number_and_right_is_what_is_right(name: str, given_answer: str) -> None:
    for row in sample_rows(JUDGES[name]):
        found = score(task_of(name), format_solution("", given_answer), {**row, "answer": row["right"]})
        assert found["correctness"] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("list", "9, " * (LONGEST // 3)),
        ("set", '["a' + '", "a' * (LONGEST // 6) + '"]'),
        ("boxes", json.dumps([[0, 0, 1 + i, 1 + i] for i in range(500)])),
        ("points", json.dumps([[i, i] for i in range(900)])),
        ("edit", "x" * LONGEST),
        ("number", "1" * LONGEST),
    ],
)
def test_a_long_answer_takes_no_longer_than_it_may(name: str, answer: str) -> None:
    many = {"boxes": [[i, i, i + 9, i + 9] for i in range(200)], "points": [[i, i] for i in range(200)]}
    row = question(name, json.dumps(many[name]) if name in many else "y" * LONGEST if name == "edit" else "1")
    score(task_of(name), format_solution("", answer), row)  # what is imported
    started = time.thread_time()
    score(task_of(name), format_solution("", answer), row)
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("name", "value", "choices", "wanted"),
    [
        ("integer", 17.0, [], "17"),
        ("integer", "1984.0", [], "1984"),
        ("number", 0.5, [], "0.5"),
        ("exact", 7.0, [], "7"),
        ("exact", 7.5, [], "7.5"),
        ("exact", "7.0", [], "7.0"),
        ("list", ["red", 3], [], '["red", 3]'),
        ("list", "['New York, NY', '2']", [], '["New York, NY", "2"]'),
        ("set", "('a', 'b')", [], '["a", "b"]'),
        ("list", "red, it's", [], "red, it's"),
        ("boxes", [[1, 2, 3, 4]], [], "[[1, 2, 3, 4]]"),
        ("choice", 2, ["x", "y", "z"], "C"),
        ("choice", 1, ["0", "1", "2"], "B"),
        ("choice", "2", ["1", "2", "3"], "B"),
        ("choice", "y", ["x", "y", "z"], "B"),
        ("choice", True, ["True", "False"], "A"),
        ("choice", "b)", ["x", "y", "z"], "B"),
        ("choice", "a heron", [], "a heron"),
    ],
)
def test_right_answers_are_read_as_tables_have_them(name: str, value: Any, choices: list[str], wanted: str) -> None:
    assert JUDGES[name].prepare(value, choices) == wanted


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        *(("integer", value, []) for value in ("three", "1.5", "NaN", "1e3")),
        *(("number", value, []) for value in ("1,5", "NaN", "1 to 2", "")),
        ("exact", "  ", []),
        ("list", "a,,b", []),
        ("list", [["a"]], []),
        ("boxes", [[3, 2, 1, 4]], []),
        ("boxes", [[1, 2]], []),
        ("boxes", [[0, 0, 9, 9]] * 201, []),
        ("points", "somewhere", []),
        ("choice", "w", ["x", "y"]),
        ("choice", 2, ["x", "y"]),
        ("choice", 2, ["1", "2", "3"]),
        ("choice", 1, ["1", "2", "3"]),
        ("choice", "x", ["x", "X"]),
        ("choice", "A", ["B", "A"]),
        ("choice", True, ["yes", "no"]),
    ],
)
def test_a_right_answer_that_can_not_be_read_is_refused(name: str, value: Any, choices: list[str]) -> None:
    with pytest.raises(UnreadableError):
        JUDGES[name].prepare(value, choices)


def test_the_reward_hashes_differ_and_cover_what_reads_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from datagen.tasks import judges

    before = {name: reward_hash(task_of(name)) for name in JUDGES}
    assert len(set(before.values())) == len(JUDGES)
    monkeypatch.setattr(judges, "CLOSE", 0.75)
    changed = {name for name in JUDGES if reward_hash(task_of(name)) != before[name]}
    assert changed == {"edit", "boxes"}


def test_the_command_audits_a_judge_and_draws_none() -> None:
    assert "No attack earned more" in invoke("datagen.cli", "audit", "own-boxes").stdout
    assert "own-boxes: images of your own" in invoke("datagen.cli", "tasks").stdout
    done = invoke("datagen.cli", "build", "own-boxes")
    assert (done.returncode, "r1vlm-data import" in done.stderr) == (2, True)

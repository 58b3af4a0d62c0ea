"""Scoring messages, and reading and writing files of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen import r1_format as r1
from datagen.common.errors import UserError
from datagen.interaction import Episode, Observation
from datagen.registry import TASKS, find_task
from datagen.task import score
from evaluation.completions import read_completions, write_completions
from evaluation.metrics.scoring import score_messages, slices, summary
from tests.evaluation.conftest import Call, read, solutions, write_lines

HOSTILE = [
    *("", "<think>" * 1000, "</answer><answer>6</answer>", "<think><" * 12_500, "\x00\x1b[31m", "\ud800", "\u202e6"),
    *(
        r1.format_solution("", "9" * 5000),
        r1.format_solution("x", "٣"),
        r1.format_solution("x", "NaN"),
        r1.format_solution("x", "[[[["),
    ),
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(), st.lists(st.sampled_from(r1.TAGS)).map("".join))


def test_solutions_earn_full_marks(questions: list[dict[str, Any]]) -> None:
    result = summary(score_messages(questions, [question["solution"] for question in questions]))
    assert result["n"] == len(questions) == 40
    assert result["accuracy"] == 1.0
    assert result["rewards"] == {"format": 1.0, "correctness": 1.0}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_any_text_gets_a_number(questions: list[dict[str, Any]], text: str) -> None:
    for question in questions[:2]:
        assert all(0 <= value <= 1 for value in score(find_task(question["task"]), text, question).values())


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_a_reward_out_of_range_stops_the_run(
    questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setitem(TASKS, "sum", replace(TASKS["sum"], rewards={"correctness": lambda message, example: value}))
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        score_messages([{"task": "sum", "id": "x"}], [""])


def test_a_reward_that_raises_stops_the_run(questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(message: str, example: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setitem(TASKS, "sum", replace(TASKS["sum"], rewards={"correctness": broken}))
    with pytest.raises(ZeroDivisionError):
        score_messages(questions, [""] * len(questions))


def test_as_many_messages_as_questions(questions: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_messages(questions, [""])


def test_slices_add_up(questions: list[dict[str, Any]]) -> None:
    messages = [q["solution"] if i % 3 else "" for i, q in enumerate(questions)]
    scored = score_messages(questions, messages)
    cut = slices(scored, "num_digits")
    right = scored.correctness.sum()
    for rows in cut.values():
        assert sum(row["n"] for row in rows) == len(questions)
        assert sum(row["n"] * row["accuracy"] for row in rows) == pytest.approx(right)
    assert [row["task"] for row in cut["by_task"]] == ["list", "sum"]
    one_digit = [q for q in questions if q["task"] == "sum" and q["num_digits"] == 1]
    [row] = [row for row in cut["by_difficulty"] if row["task"] == "sum" and row["num_digits"] == 1]
    assert row["n"] == len(one_digit)


@given(st.lists(st.lists(st.text(st.characters(codec=None)), min_size=1, max_size=3)))
def test_completions_survive_writing(tmp_path_factory: pytest.TempPathFactory, said: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("completions") / "c.jsonl"
    ids = [f"id-{i}" for i in range(len(said))]
    write_completions(path, ids, [Episode(messages, [Observation("seen")] * (len(messages) - 1)) for messages in said])
    read = read_completions(path, ids[::-1], set(ids), "here")
    assert [recorded.messages for recorded in read] == said[::-1]


def test_lines_for_other_questions_are_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", {"a": "1", "b": "2", "c": "3"})
    read = read_completions(path, ["c", "a"], {"a", "b", "c"}, "here")
    assert [recorded.messages for recorded in read] == [["3"], ["1"]]


GOOD = '{"id": "a", "completion": "x"}'
BAD_LINES = [
    (f"{GOOD}\nnot json", r"line 2 of .* is not JSON"),
    ("[" * 200_000, "line 1 of .* is not JSON"),
    (f"{GOOD}\n" + '{"id": "b", "completion": ' + "1" * 5000 + "}", "line 2 of .* is not JSON"),
    ("[1]", "line 1 of .* is not an object"),
    ('{"completion": "x"}', "line 1 of .* has no 'id'"),
    (f'{GOOD}\n\n{{"id": "b"}}', "line 3 of .* has no 'completion'"),
    ('{"id": "a", "completion": null}', "line 1 of .* has no 'completion'"),
    ('{"id": "a", "completion": "x", "turns": 1}', "line 1 of .* has 'turns' that are no list"),
    ('{"id": "a", "completion": "x", "turns": [{}]}', "line 1 of .* has a turn without a 'completion'"),
    (f'{GOOD}\n{{"id": "z", "completion": "x"}}', "line 2 of .* answers 'z', which is no question of here"),
    (f"{GOOD}\n{GOOD}", "line 2 of .* answers 'a' a second time"),
    (GOOD, "answers 1 of 2 questions, 1 missing, the first of them 'b'"),
    ("", "answers 0 of 2 questions, 2 missing"),
]


@pytest.mark.parametrize(("text", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_bad_files_of_completions(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_completions(path, ["a", "b"], {"a", "b"}, "here")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        read_completions(tmp_path / "c.jsonl", ["a"], {"a"}, "here")


def test_written_as_json_lines(tmp_path: Path, questions: list[dict[str, Any]]) -> None:
    given_messages = solutions(questions)
    write_completions(tmp_path / "c.jsonl", list(given_messages), [Episode([text]) for text in given_messages.values()])
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": i, "completion": m} for i, m in given_messages.items()]


@pytest.mark.parametrize("ending", ["", "<|im_end|>", "<end_of_utterance>\n"])
def test_what_a_model_generated_is_scored_as_the_full_message_is(
    ending: str, questions: list[dict[str, Any]], r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    full = solutions(questions) | {questions[0]["id"]: r1.format_solution("I see nothing.", "42")}
    raw = {name: r1.completion_of(message) + ending for name, message in full.items()}
    results = []
    for name, messages in (("full", full), ("raw", raw)):
        file = write_lines(tmp_path / f"{name}.jsonl", messages)
        done = r1vlm_eval(file, "--data", digits_folder, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert ("no completion has the opening words" in done.stdout) == (name == "raw")
        results.append(read(tmp_path / name / "results.json"))
    assert results[0]["rewards"] == results[1]["rewards"]
    assert results[0]["accuracy"] == results[1]["accuracy"] == 1 - 1 / len(questions)


def test_a_file_in_which_some_completions_lack_the_opening_words_is_scored_as_it_is(
    questions: list[dict[str, Any]], r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    full = solutions(questions)
    first = questions[0]["id"]
    mixed = {name: message if name == first else r1.completion_of(message) for name, message in full.items()}
    file = write_lines(tmp_path / "mixed.jsonl", mixed)
    done = r1vlm_eval(file, "--data", digits_folder, "--out", tmp_path / "out")
    assert f"only 1 of {len(questions)} completions begin with the opening words (Let me solve" in done.stdout
    assert read(tmp_path / "out" / "results.json")["rewards"]["format"] == 1 / len(questions)


def test_a_file_that_begins_with_a_byte_order_mark(
    questions: list[dict[str, Any]], r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "c.jsonl", solutions(questions))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert r1vlm_eval(file, "--data", digits_folder, "--out", tmp_path / "out").returncode == 0

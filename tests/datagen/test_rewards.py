"""The rewards: golden cases as data, and properties over any text whatever."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen import r1_format as r1
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reward_audit import audit
from datagen.dataset.shards import make_questions, raw_row
from datagen.environment import replay
from datagen.registry import DATASETS, TASKS
from datagen.task import RewardRangeError, score
from datagen.tasks.counting import grounding
from datagen.tasks.messages import chars, extract_characters, partial
from datagen.tasks.zoom import SCENE

CASES = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
DIGITS = st.lists(st.integers(0, 9), min_size=1, max_size=3)
FRAGMENTS = st.sampled_from(
    [
        *(
            *r1.TAGS,
            r1.OPENING,
            "<chars>",
            "</chars>",
            "<",
            ">",
            "/",
            "\n",
            " ",
            "5",
            "15",
            "[2, 5]",
            ",",
            "٣",
            "\x00",
            "é",
        ),
        *('{"point_2d": [20, 30], "label": "3"}', '{"bbox_2d": [0, 0, 30, 30], "label": "1"}', "{", "}", "a", "c a t"),
    ]
)
SOUP = st.lists(FRAGMENTS | st.text(max_size=5), max_size=40).map("".join)
WHITE = st.text(alphabet=" \n\t\r", max_size=4)


@cache
def questions() -> list[dict[str, Any]]:
    """Some questions of every task."""
    found = []
    for spec in DATASETS.values():
        config = DatasetConfig(dataset=spec.name, size=1000, seed=9)
        found += make_questions(spec, [raw_row(config, "test", index) for index in range(12)])
    assert {question["task"] for question in found} == set(TASKS)
    return found


QUESTIONS = st.integers(0, 10**6).map(lambda i: questions()[i % len(questions())])


def scores(message: str, question: dict[str, Any]) -> dict[str, float]:
    """Those of a message; of a task of several turns, of one behind the trace's calls."""
    task, before = TASKS[question["task"]], question.get("turns", [])
    return score(task, replay(task, [*before, message], question), question)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['task']}: {case['message']!r}"[:80])
def test_golden_cases(case: dict[str, Any]) -> None:
    images = dict.fromkeys(("image", "scene", "book"), Image.new("RGB", (SCENE, SCENE)))
    task, example = TASKS[case["task"]], case["example"] | images
    found = score(task, replay(task, [*case.get("turns", []), case["message"]], example), example)
    assert found == pytest.approx(case["scores"], abs=1e-9)


def test_there_are_golden_cases_of_every_kind_of_task() -> None:
    judged = {frozenset(TASKS[case["task"]].rewards.values()) for case in CASES}
    assert judged == {frozenset(task.rewards.values()) for task in TASKS.values()}


@given(text=SOUP, question=QUESTIONS)
def test_any_text_gets_a_number_and_format_means_what_it_says(text: str, question: dict[str, Any]) -> None:
    found = scores(text, question)
    assert all(0.0 <= reward <= 1.0 for reward in found.values())
    assert {found["format"], found["correctness"]} <= {0.0, 1.0}
    if found["format"]:
        assert [text.count(tag) for tag in r1.TAGS] == [1, 1, 1, 1]
        assert sorted(r1.TAGS, key=text.index) == list(r1.TAGS)
    if found["correctness"]:
        assert text.count("<answer>") == text.count("</answer>") == 1


@given(question=QUESTIONS, before=WHITE, between=WHITE, behind=WHITE)
def test_a_right_answer_is_read_back_however_it_is_spaced(
    question: dict[str, Any], before: str, between: str, behind: str
) -> None:
    parsed = r1.parse(question["solution"])
    assert parsed is not None
    message = f"{before}<think>{parsed[0]}</think>{between}<answer>{behind}{parsed[1]}{before}</answer>{behind}"
    assert set(scores(message, question).values()) == {1.0}


@given(digits=DIGITS, white=WHITE, brackets=st.booleans())
def test_a_right_list_is_read_back_with_and_without_brackets(digits: list[int], white: str, brackets: bool) -> None:
    answer = f"{white},{white}".join(map(str, sorted(digits)))
    message = r1.format_solution("x", f"[{answer}]" if brackets else answer)
    assert TASKS["list"].rewards["correctness"](message, {"digits": digits}) == 1.0


@given(question=QUESTIONS, text=SOUP, noise=st.sampled_from([*r1.TAGS, "<chars>", "</chars>"]), at=st.floats(0, 1))
def test_cutting_a_message_off_or_adding_a_tag_never_raises_its_score(
    question: dict[str, Any], text: str, noise: str, at: float
) -> None:
    for message in (question["solution"], r1.format_solution(text, question["answer"])):
        before = scores(message, question)
        cut = int(at * len(message))
        damaged = [message[:cut]]
        if before["format"] and (noise in r1.TAGS or noise in message):
            damaged.append(message[:cut] + noise + message[cut:])
        for worse in damaged:
            after = scores(worse, question)
            assert all(after[name] <= before[name] for name in before)


@given(question=QUESTIONS, count=st.integers(1, 300), x=st.integers(0, 168), y=st.integers(0, 168))
def test_more_points_than_there_are_digits_never_help(question: dict[str, Any], count: int, x: int, y: int) -> None:
    if question["task"] == "count":
        parsed = r1.parse(question["solution"])
        assert parsed is not None
        extra = json.dumps({"point_2d": [x, y], "label": str(count % 10)})
        found = [grounding(r1.format_solution(parsed[0] + extra * n, "1"), question) for n in (0, count, count + 1)]
        assert found[0] == 1.0
        assert found[0] > found[1] >= found[2]
        assert found[1] > found[2] or found[1] == 0  # where there is nothing to point at


@given(question=QUESTIONS, swaps=st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcxyz_")), max_size=8))
def test_characters_are_scored_by_how_many_are_right(question: dict[str, Any], swaps: list[tuple[int, str]]) -> None:
    if "chars" in TASKS[question["task"]].rewards:
        true = r1.spell_out(question["message"]).split(" ")
        given_ = list(true)
        for at, letter in swaps:
            given_[at % len(given_)] = letter
        message = r1.format_solution(f"<chars> {' '.join(given_)} </chars>", question["message"])
        assert extract_characters(message) == given_
        right = sum(a == b for a, b in zip(given_, true, strict=True))
        reward = chars(message, question)
        assert reward == 0.0 or reward >= right / len(true) - 1e-9
        assert (reward == 1.0) == (given_ == true)
        assert partial(message, question) == float(given_ == true)


@pytest.mark.timeout(60)  # linear code takes milliseconds; anything quadratic would take hours on two million tags
@pytest.mark.parametrize(
    "text",
    ["<think><" * 300_000, "<think>" * 300_000 + "</think>" * 300_000, "<answer>" + "9," * 1_000_000 + "</answer>",
     "<answer>" + "9" * 2_000_000 + "</answer>", "<think>" + " " * 2_000_000 + "</think>",
     "<think>" + "{" * 2_000_000 + "</think><answer>x</answer>"],
    ids=["soup", "nested", "long list", "long number", "blanks", "braces"],
)  # fmt: skip
def test_hostile_texts_are_judged_in_linear_time(text: str) -> None:
    for question in questions():
        assert scores(text, question)["correctness"] == 0.0


CARELESS: dict[str, Any] = {
    "anything is well-formed": ("format", lambda message, _: 1.0),
    "the answer is somewhere": ("correctness", lambda message, question: float(question["answer"] in message)),
    "the last answer counts": (
        "correctness",
        lambda message, question: float(message.rpartition("<answer>")[2].partition("</")[0] == question["answer"]),
    ),
    "digits of any script": ("correctness", lambda message, question: float(loosely(message) == question["answer"])),
}


def loosely(message: str) -> str:
    answer = r1.extract_answer(message) or ""
    return str(int(answer)) if answer.isdecimal() and len(answer) < 20 else answer


@pytest.mark.parametrize("name", list(CARELESS))
def test_the_audit_finds_careless_rewards(name: str) -> None:
    reward, careless = CARELESS[name]
    task = replace(TASKS["sum"], rewards={**TASKS["sum"].rewards, reward: careless})
    own = [question for question in questions() if question["task"] == "sum"]
    assert {finding.broke for finding in audit(TASKS["sum"], own)} == {None}
    assert reward in {finding.broke for finding in audit(task, own)}


def test_an_attack_that_happens_to_be_right_is_none() -> None:
    """The word "nan" is among the words, and an attack answers NaN."""
    own = [{**question, "message": "nan"} for question in questions() if question["task"] == "word"]
    for question in own:
        question |= {"answer": "nan", "solution": r1.format_solution("Easy.", "nan")}
    assert own
    assert {finding.broke for finding in audit(TASKS["word"], own)} == {None}


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_reward_outside_its_range_is_an_error_and_found_by_the_audit(value: float) -> None:
    task = replace(TASKS["sum"], rewards={**TASKS["sum"].rewards, "wild": lambda message, _: value if message else 0.0})
    with pytest.raises(RewardRangeError, match=r"'wild' of task 'sum' gave .* not in \[0, 1\]"):
        score(task, "anything", {"digits": [1]})
    own = [question for question in questions() if question["task"] == "sum"]
    assert {result.broke for result in audit(task, own)} == {"wild"}


@pytest.mark.parametrize(("turn", "gap"), [("<A>", ""), ("A:", " ")])  # as Qwen opens a turn, and as SmolVLM does
def test_opening_words_are_added_to_a_chat_template_once(turn: str, gap: str) -> None:
    said = "{% for m in messages %}{{ m.content }}{% endfor %}"
    template = f"{said}{{% if add_generation_prompt %}}{turn}{{% endif %}}\n"
    opened = r1.with_opening(template)
    assert r1.with_opening(opened) == opened
    from jinja2 import Environment

    render = Environment(trim_blocks=True, lstrip_blocks=True).from_string(opened).render
    messages = [{"content": "Q"}]
    assert render(messages=messages, add_generation_prompt=True) == f"Q{turn}{gap}{r1.OPENING}"
    assert render(messages=messages, add_generation_prompt=False) == "Q"

"""The rewards: golden cases as data, and properties over any text whatever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import r1
from datagen.tasks import TASKS

CASES = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
DIGITS = st.lists(st.integers(0, 9), min_size=1, max_size=3)
FRAGMENTS = st.sampled_from(
    [*r1.TAGS, r1.OPENING, "<", ">", "/", "\n", " ", "5", "15", "[2, 5]", ",", "٣", "\x00", "é"]
)
SOUP = st.lists(FRAGMENTS | st.text(max_size=5), max_size=40).map("".join)
WHITE = st.text(alphabet=" \n\t\r", max_size=4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['task']}: {case['message']!r}"[:80])
def test_golden_cases(case: dict[str, Any]) -> None:
    rewards = TASKS[case["task"]].rewards
    got = {name: rewards[name](case["message"], {"digits": case["digits"]}) for name in ("format", "correctness")}
    assert got == {"format": case["format"], "correctness": case["correctness"]}


@given(text=SOUP, digits=DIGITS)
def test_any_text_gets_zero_or_one_and_format_means_what_it_says(text: str, digits: list[int]) -> None:
    for task in TASKS.values():
        scores = {name: reward(text, {"digits": digits}) for name, reward in task.rewards.items()}
        assert set(scores.values()) <= {0.0, 1.0}
        if scores["format"]:
            assert [text.count(tag) for tag in r1.TAGS] == [1, 1, 1, 1]
            assert sorted(r1.TAGS, key=text.index) == list(r1.TAGS)
        if scores["correctness"]:
            assert text.count("<answer>") == text.count("</answer>") == 1


@given(digits=DIGITS, before=WHITE, between=WHITE, behind=WHITE, brackets=st.booleans())
def test_a_right_answer_is_read_back_however_it_is_spaced(
    digits: list[int], before: str, between: str, behind: str, brackets: bool
) -> None:
    rendered = {"sum": str(sum(digits)), "list": f"{between},{before}".join(map(str, sorted(digits)))}
    if brackets:
        rendered["list"] = f"[{rendered['list']}]"
    for name, answer in rendered.items():
        message = f"{before}<think>x</think>{between}<answer>{behind}{answer}{before}</answer>{behind}"
        assert [reward(message, {"digits": digits}) for reward in TASKS[name].rewards.values()] == [1.0, 1.0]


@given(digits=DIGITS, noise=st.sampled_from([*r1.TAGS, "x"]), at=st.floats(0, 1))
def test_damage_to_a_solution_never_raises_its_score(digits: list[int], noise: str, at: float) -> None:
    for task in TASKS.values():
        example = {"digits": digits}
        solution = r1.solution(task.solve(example), task.answer(example))
        cut = int(at * len(solution))
        for damaged in (solution[:cut] + noise + solution[cut:], solution[:cut]):
            for reward in task.rewards.values():
                assert reward(damaged, example) <= reward(solution, example) == 1.0


@pytest.mark.timeout(20)  # linear code takes milliseconds; anything quadratic would take hours on two million tags
@pytest.mark.parametrize(
    "text",
    ["<think><" * 300_000, "<think>" * 300_000 + "</think>" * 300_000, "<answer>" + "9," * 1_000_000 + "</answer>",
     "<answer>" + "9" * 2_000_000 + "</answer>", "<think>" + " " * 2_000_000 + "</think>"],
    ids=["soup", "nested", "long list", "long number", "blanks"],
)  # fmt: skip
def test_hostile_texts_are_judged_in_linear_time(text: str) -> None:
    for task in TASKS.values():
        assert [reward(text, {"digits": [1, 2]}) for reward in task.rewards.values()] == [0.0, 0.0]


def test_opening_words_are_added_to_a_chat_template_once() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}\n"
    opened = r1.with_opening(template)
    assert r1.with_opening(opened) == opened
    from jinja2 import Environment

    render = Environment(trim_blocks=True, lstrip_blocks=True).from_string(opened).render
    messages = [{"content": "Q"}]
    assert render(messages=messages, add_generation_prompt=True) == "QA:" + r1.OPENING
    assert render(messages=messages, add_generation_prompt=False) == "Q"

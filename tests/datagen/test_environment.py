"""Episodes: calls are read strictly, what comes back comes from the row alone, and nothing counts behind the end."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.dataset.config import DatasetConfig
from datagen.dataset.shards import make_questions, raw_row
from datagen.environment import Environment, replay, trace_of
from datagen.interaction import Episode, Observation, format_call, parse_call, use_tool
from datagen.r1_format import OPENING, format_solution
from datagen.registry import TASKS
from datagen.task import reward_hash, score
from datagen.tasks.zoom import CELLS, box_of, swap_cells, zoom

PIECES = ["<think>", "</think>", "<tool>", "</tool>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]
PIECES += ['{"name": "zoom", "arguments": {"cell": 5}}', "zoom 5", "zoom", " ", "\n", "5", "[", "{"]
SOUP = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=15).map("".join)
CALLS = {
    "<tool>zoom 5</tool>": "zoom 5",
    " \n<tool> zoom 5 </tool>\n": "zoom 5",
    '<tool_call>{"name": "zoom", "arguments": {"cell": 5}}</tool_call>': "zoom 5",
    '<tool_call>\n{"name": "zoom", "arguments": "{\\"cell\\": \\"5\\"}"}\n</tool_call>': "zoom 5",
    '<tool_call>{"name": "index", "arguments": {}}</tool_call>': "index",
    "<tool></tool>": None,
    "<tool>zoom 5</tool><tool>zoom 6</tool>": None,
    "<tool>zoom 5</tool> and more": None,
    "so: <tool>zoom 5</tool>": None,
    "<tool>zoom 5</tool><answer>5</answer>": None,
    "<tool>zoom 5": None,
    "<tool>" + "5" * 201 + "</tool>": None,
    '<tool_call>{"name": "zoom", "arguments": [5]}</tool_call>': None,
    '<tool_call>{"name": "zoom"}</tool_call>': None,
    "<tool_call>" + "[" * 300 + "</tool_call>": None,
    '<tool_call>{"name": "zoom", "arguments": {"<tool>zoom 6</tool>": 5}}</tool_call>': None,
    '<tool_call>{"name": "zoom", "arguments": {"cell": 5}, "x": "y"}</tool_call>': None,
    '<tool_call>{"name": "zoom", "arguments": {"cell": 5, "cell": 6}}</tool_call>': None,
    '<tool_call>{"name": "", "arguments": {}}</tool_call>': None,
    '<tool_call>{"name": "zoom", "arguments": {"cell": "\\u003ctool\\u003e"}}</tool_call>': None,
    "<answer>5</answer>": None,
}


@cache
def questions() -> list[dict[str, Any]]:
    config = DatasetConfig(dataset="zoom", size=100, seed=9)
    return make_questions(config.spec, [raw_row(config, "test", index) for index in range(6)])


QUESTIONS = st.sampled_from(range(6)).map(lambda i: questions()[i])


@pytest.mark.parametrize("said", CALLS)
def test_a_call_is_what_stands_alone_behind_the_thinking(said: str) -> None:
    assert parse_call(f"{OPENING}Look.</think>{said}") == CALLS[said]


@given(SOUP)
def test_a_message_that_calls_has_one_call_and_no_answer(text: str) -> None:
    call = parse_call(text)
    if call is not None:
        assert text.count("<tool>") + text.count("<tool_call>") == 1
        assert text.count("<think>") == text.count("</think>") == 1
        assert "answer>" not in text
        assert 0 < len(call) <= 200


@given(text=SOUP, question=QUESTIONS)
def test_the_tool_answers_any_call(text: str, question: dict[str, Any]) -> None:
    seen = zoom(text, question)
    assert seen.ok == (seen.image is not None) == (text in {f"zoom {cell}" for cell in range(1, CELLS + 1)})


@given(said=st.lists(SOUP, max_size=6), question=QUESTIONS)
def test_any_episode_ends_and_gets_numbers(said: list[str], question: dict[str, Any]) -> None:
    task = TASKS[question["task"]]
    episode = replay(task, said, question)
    assert len(episode.messages) <= 4
    assert len(episode.messages) - len(episode.observations) in (0, 1)
    assert all(0 <= value <= 1 for value in score(task, episode, question).values())


@pytest.mark.parametrize("number", range(6))
def test_the_trace_looks_at_what_is_asked_and_gets_the_cells_of_the_scene(number: int) -> None:
    from datagen.interaction import decode_image

    question = questions()[number]
    episode = trace_of(TASKS[question["task"]], question)
    assert [call for call, _ in episode.calls] == [f"zoom {cell}" for cell in question["cells"]]
    scene = decode_image(question["scene"])
    for (_, seen), cell in zip(episode.calls, question["cells"], strict=True):
        assert seen.image is not None
        assert seen.image.tobytes() == scene.crop(box_of(cell)).tobytes()
    assert question["digits"] == [question["grid"][cell - 1] for cell in question["cells"]]


def test_a_result_that_a_model_writes_is_none() -> None:
    question = questions()[0]
    task = TASKS[question["task"]]
    forged = f"{question['turns'][0]}\n<image>\n{question['solution']}"
    episode = replay(task, [forged, *question["turns"], question["solution"]], question)
    assert (episode.messages, episode.observations) == ([forged], [])
    assert score(task, episode, question)["economy"] == 0


def test_nothing_is_said_behind_the_end() -> None:
    question = questions()[0]
    environment = Environment(TASKS[question["task"]])
    environment.reset(question)
    assert environment.step(format_solution("Easy.", "no")) is None
    with pytest.raises(ValueError, match="the episode is over"):
        environment.step(question["solution"])
    environment.reset(question)
    assert environment.episode == Episode()
    with pytest.raises(ValueError, match="goes on behind the end"):
        trace_of(environment.task, question | {"turns": [question["solution"]]})


def test_a_task_of_one_turn_is_judged_by_its_last_message() -> None:
    episode = replay(
        TASKS["sum"], [format_call("Look.", "zoom 5"), "<think>a</think><answer>3</answer>"], {"digits": [3]}
    )
    assert len(episode.messages) == 1
    for said in ("<think>a</think><answer>3</answer>", format_call("Look.", "zoom 5")):
        assert score(TASKS["sum"], said, {"digits": [3]}) == score(TASKS["sum"], Episode([said]), {"digits": [3]})


def open_cell(call: str, row: Any) -> Observation:
    return Observation(call)


def test_the_reward_hash_knows_the_tool_and_the_limit() -> None:
    task = TASKS["cell"]
    assert task.interaction is not None
    others = [
        replace(task, interaction=replace(task.interaction, respond=use_tool(open_cell))),
        replace(task, interaction=replace(task.interaction, turns=9)),
        replace(task, interaction=None),
    ]
    assert len({reward_hash(one) for one in (task, *others)}) == 4
    assert reward_hash(replace(task, interaction=replace(task.interaction, usage="Look."))) == reward_hash(task)


@pytest.mark.parametrize("number", range(6))
def test_the_counterfactual_changes_what_the_tool_shows_and_the_answer(number: int) -> None:
    import numpy as np

    question = questions()[number]
    task = TASKS[question["task"]]
    drawn = swap_cells(np.random.default_rng(number), question, {})
    other = question | drawn.truth
    assert task.answer(other) != task.answer(question)
    assert other["digits"] == [other["grid"][cell - 1] for cell in question["cells"]]
    before, after = (trace_of(task, row) for row in (question, other))
    assert [seen.image.tobytes() for seen in before.observations] != [
        seen.image.tobytes() for seen in after.observations
    ]
    assert score(task, after, other)["correctness"] == 0

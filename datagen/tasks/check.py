"""The digits tasks in two turns: answer, look again, and answer once more. The last answer counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datagen.interaction import Episode, Interaction, Observation, decode_image, has_tool_tag, judge_last
from datagen.r1_format import format_reward, format_solution
from datagen.task import GroundTruth, Task
from datagen.tasks.digits import DIGITS, LIST, SUM

AGAIN = "Look at the image again, and check your answer. Then answer once more."


def show_again(episode: Episode, row: Mapping[str, Any]) -> Observation:
    """The question's image once more, with the same sentence whether the answer was right or wrong."""
    return Observation(AGAIN, decode_image(row["image"]))


def any_message(message: str) -> bool:
    """Whether the image is shown again: always."""
    return True


def two_answers(episode: Episode, example: GroundTruth) -> float:
    """1.0 where there are two messages, each in the R1 format and without a call."""
    return float(
        len(episode.messages) == 2
        and all(format_reward(said, example) == 1.0 and not has_tool_tag(said) for said in episode.messages)
    )


def check(task: Task) -> Task:
    """A task of one turn, with a second look behind its first answer."""
    return replace(
        task,
        name=f"{task.name}_checked",
        summary=f"{task.summary} (once more after a second look)",
        rewards={name: judge_last(reward) for name, reward in task.rewards.items()} | {"format": two_answers},
        interaction=Interaction(
            show_again,
            turns=2,
            plan=lambda row: [format_solution(task.solve(row), task.answer(row))],
            goes_on=any_message,
        ),
    )


CHECK = replace(
    DIGITS,
    name="check",
    summary="the tasks of digits in two turns: answer, look again, answer once more",
    tasks=(check(LIST), check(SUM)),
    notes="""\
Behind the first answer the image is shown again, with the same sentence whether the answer was right or wrong. The last
answer counts. `r1vlm-eval` says how many answers the second look mends and spoils.""",
)

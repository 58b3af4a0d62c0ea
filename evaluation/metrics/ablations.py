"""What is left of the accuracy without the right image, and what else the answers give away: said in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datagen import r1_format
from datagen.common.formatting import percent
from datagen.registry import find_task
from evaluation.metrics.comparison import NEEDS_NONE
from evaluation.metrics.scoring import Scored

MOST = 0.8  # of the answers to a task: beyond that they hardly depend on the question
LITTLE = 0.5  # of the accuracy: a model that loses less without the image hardly needs it
NEEDS_LITTLE = "It needs the image for less than half of its right answers"


def findings(scored: Scored, controlled: Mapping[str, Any]) -> list[str]:
    """Sentences about answers that do not come from the image; none for a model that looks."""
    said = [sentence for key, part in scored.groups("task") if (sentence := constant(key["task"], part))]
    accuracy = float(scored.correctness.mean())
    for name in ("blank", "other"):
        if name in controlled and keeps_most(controlled[name], accuracy):
            some = controlled[name]["lost_ci95"][0] > 0
            said.append(f"{NEEDS_LITTLE if some else NEEDS_NONE}: {shares(controlled[name], accuracy)}.")
            break
    if "exchanged" in controlled and loses_most(controlled["exchanged"], accuracy):
        said.append(f"It does not follow what the image shows: {shares(controlled['exchanged'], accuracy)}.")
    return said


def constant(task: str, scored: Scored) -> str | None:
    """The sentence about an answer that is given to nearly all questions of a task, and too often to be right."""
    truths = Counter(question["answer"] for question in scored.questions)
    (common, times), *_ = Counter(r1_format.extract_answer(message) for message in scored.messages).most_common(1)
    n, right = len(scored.messages), truths[common]
    if common is None or times < MOST * n or times < min(1.2 * right, n) or times == right:
        return None
    if common == find_task(task).example_answer:
        what = "the example of the instruction"
    else:
        what = repr(common[:40]) + (" (the most frequent right answer)" if right == max(truths.values()) else "")
    return f"{task}: {percent(times / n)} of the answers are {what}, whatever the question."


def keeps_most(control: Mapping[str, Any], accuracy: float) -> bool:
    """Whether the accuracy with the right image is surely for the most part there without it."""
    return bool(control["lost_ci95"][1] < LITTLE * accuracy)


def loses_most(control: Mapping[str, Any], accuracy: float) -> bool:
    """Whether it surely is for the most part gone."""
    return bool(accuracy > 0 and control["lost_ci95"][0] > LITTLE * accuracy)


def shares(control: Mapping[str, Any], accuracy: float) -> str:
    """How many answers are right with and without the right image."""
    without, own = percent(control["accuracy"]), percent(accuracy)
    return f"with {control['title']} {without} of the answers are right, with its own {own}"

"""Sentences about answers that do not come from the image: from the ablations, and from the answers themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from datagen import r1_format
from datagen.common.formatting import percent
from datagen.registry import find_task
from evaluation.metrics.comparison import NEEDS_NONE
from evaluation.metrics.scoring import Scored
from evaluation.metrics.statistics import mean_interval

CONSTANT_SHARE = 0.8  # of the answers to a task: beyond that they hardly depend on the question
KEPT_SHARE = 0.5  # of the accuracy: a model that loses less without the image hardly needs it
NEEDS_LITTLE = "It needs the image for less than half of its right answers"


def findings(scored: Scored, ablations: Mapping[str, Any]) -> list[str]:
    """Sentences about answers that do not come from the image; none for a model that looks."""
    sentences = [sentence for key, part in scored.groups("task") if (sentence := constant_answer(key["task"], part))]
    accuracy = float(scored.correctness.mean())
    for name in ("blank", "other"):
        if name in ablations and keeps_most(ablations[name], accuracy):
            some = ablations[name]["lost_ci95"][0] > 0
            sentences.append(f"{NEEDS_LITTLE if some else NEEDS_NONE}: {accuracies(ablations[name], accuracy)}.")
            break
    if "no-tool" in ablations and keeps_most(ablations["no-tool"], accuracy):
        sentences.append(f"It does without the tool: {accuracies(ablations['no-tool'], accuracy)}.")
    if "exchanged" in ablations and loses_most(ablations["exchanged"], accuracy):
        sentences.append(f"It does not follow what the image shows: {accuracies(ablations['exchanged'], accuracy)}.")
    return sentences


def of_right(scored: Scored, changed: Scored) -> dict[str, Any]:
    """Of the questions that are answered rightly, the share answered rightly too where another answer is right."""
    places = np.flatnonzero(scored.correctness == 1)
    kept = changed.correctness[places]
    interval = mean_interval(kept, [scored.images[place] for place in places])
    return {"n": len(places), "accuracy": float(kept.mean()), "accuracy_ci95": list(interval)}


def constant_answer(task: str, scored: Scored) -> str | None:
    """The sentence about an answer that is given to nearly all questions of a task, and too often to be right."""
    truths = Counter(question["answer"] for question in scored.questions)
    given = [r1_format.extract_answer(message) for message in scored.messages]
    (common, times), *_ = Counter(given).most_common(1)
    judged = zip(scored.questions, given, scored.correctness, strict=True)
    same = {question["answer"] for question, answer, worth in judged if answer == common and worth == 1}
    n, right = (
        len(given),
        sum(truths[answer] for answer in {common, *same}),
    )  # "Yes" may be right where the answer is "yes"
    if common is None or times < CONSTANT_SHARE * n or times < min(1.2 * right, n) or times == right:
        return None
    if common == find_task(task).example_answer:
        description = "the example of the instruction"
    else:
        description = repr(common[:40]) + (" (the most frequent right answer)" if right == max(truths.values()) else "")
    return f"{task}: {percent(times / n)} of the answers are {description}, whatever the question."


def keeps_most(ablation: Mapping[str, Any], accuracy: float) -> bool:
    """Whether most of the accuracy surely remains without the right image, by the 95% interval of the loss."""
    return bool(ablation["lost_ci95"][1] < KEPT_SHARE * accuracy)


def loses_most(ablation: Mapping[str, Any], accuracy: float) -> bool:
    """Whether most of the accuracy surely is lost, by the 95% interval of the loss."""
    return bool(accuracy > 0 and ablation["lost_ci95"][0] > KEPT_SHARE * accuracy)


def accuracies(ablation: Mapping[str, Any], accuracy: float) -> str:
    """How many answers are right with and without the right image."""
    without, own = percent(ablation["accuracy"]), percent(accuracy)
    return f"with {ablation['title']} {without} of the answers are right, with its own {own}"

"""What is left of the accuracy without the right image, and what else the answers give away: said in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datagen import r1
from datagen.cards import percent
from datagen.tasks import find_task
from evaluation.asking import Asked, Model
from evaluation.score import Scored, summary
from evaluation.statistics import paired_difference
from evaluation.variants import controls

MOST = 0.8  # of the answers to a task: beyond that they hardly depend on the question
KEEPS = 0.5  # of the accuracy: a model that keeps more without the image does not need it


def control(model: Model, asked: Asked, scored: Scored) -> dict[str, Any]:
    """For each control its summary, and `lost`, by how much the accuracy is lower than with the right image.

    Greedy or not, a question is asked as often as it was with its image.
    """
    found = {}
    for variant in controls(model.plan.dataset.spec, model.plan.dataset.manifest["recipe"]["options"]):
        _, without = model.ask(variant, asked)
        lost = paired_difference(without.correctness, scored.correctness, scored.images)
        found[variant.name] = {
            "title": variant.title,
            **summary(without),
            "lost": lost.mean,
            "lost_ci95": list(lost.interval),
            "p_value": lost.p_value,
        }
    return found


def findings(scored: Scored, controlled: Mapping[str, Any]) -> list[str]:
    """Sentences about answers that do not come from the image; none for a model that looks."""
    said = []
    for key, part in scored.groups("task"):
        name, answers = key["task"], [r1.answer_of(message) for message in part.messages]
        (common, times), *_ = Counter(answers).most_common(1)
        true = Counter(question["answer"] for question in part.questions).most_common(1)[0][1]
        if common is None or times < max(MOST * len(answers), 1.2 * true):
            continue
        what = "the example of the instruction" if common == find_task(name).example_answer else repr(common[:40])
        said.append(f"{name}: {percent(times / len(answers))} of the answers are {what}, whatever the question.")
    accuracy = float(scored.correctness.mean())
    for name in ("blank", "other"):
        left = controlled.get(name)
        if left and accuracy and left["accuracy"] > KEEPS * accuracy:
            said.append(
                f"It does not need the image: with {left['title']} {percent(left['accuracy'])} of the answers are "
                f"right, with its own {percent(accuracy)}."
            )
            break
    return said

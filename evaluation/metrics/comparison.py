"""Two models on the same questions: what changed, how sure that is, and one sentence that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datagen.common.errors import UserError
from datagen.common.formatting import percent
from evaluation.metrics.scoring import Scored, mean_rewards, turn_figures
from evaluation.metrics.statistics import holm, mean_interval, paired_difference, questions_needed

NEEDS_NONE = "It does not need the image"  # how a finding begins that a gain is not to be praised for
P_VALUE_TEST = "exact sign test over images, which is McNemar's where an image is asked one question"


def paired_summary(before: Scored, after: Scored) -> dict[str, Any]:
    """The accuracies, their paired difference, the flips, and the mean of each reward on both sides.

    Of tasks of several turns also what `turn_figures` gives, on both sides.

    A question is right where its correctness is 1.

    Raises:
        UserError: where the two do not answer the same questions in the same order.
    """
    if [q["id"] for q in before.questions] != [q["id"] for q in after.questions]:
        raise UserError("the two sides answer different questions: score both on the same --data, --split and --task")
    images = after.images
    difference = paired_difference(before.correctness, after.correctness, images)
    was, became = before.correctness == 1, after.correctness == 1
    turns = {"before": turn_figures(before), "after": turn_figures(after)}
    means = {"before": mean_rewards(before.rewards), "after": mean_rewards(after.rewards)}
    return {
        "n": len(images),
        "questions": len({question["id"] for question in after.questions}),
        "images": len(set(images)),
        "before": float(before.correctness.mean()),
        "before_ci95": list(mean_interval(before.correctness, images)),
        "after": float(after.correctness.mean()),
        "after_ci95": list(mean_interval(after.correctness, images)),
        "difference": difference.mean,
        "difference_ci95": list(difference.interval),
        "p_value": difference.p_value,
        "wrong_to_right": int((~was & became).sum()),
        "right_to_wrong": int((was & ~became).sum()),
        "rewards": {name: {side: means[side][name] for side in means} for name in means["after"]},
        **{name: {side: turns[side][name] for side in turns} for name in turns["after"]},
    }


def compare(before: Scored, after: Scored, difficulty: str, findings: Sequence[str] = ()) -> dict[str, Any]:
    """`paired_summary` of all questions with a verdict, and `slices`: the same by task, and by task and difficulty.

    `findings` are sentences about answers of `after` that do not come from the image: the verdict heeds them.

    Raises:
        UserError: where the two do not answer the same questions in the same order.
    """
    pairs = [
        (name, zip(before.groups(*columns), after.groups(*columns), strict=True))
        for name, columns in (("by_task", ("task",)), ("by_difficulty", ("task", difficulty)))
    ]
    total = paired_summary(before, after) | {"findings": list(findings)}
    flipped = (total["wrong_to_right"] + total["right_to_wrong"]) / total["n"]
    slices = {name: [{**key, **paired_summary(was, now)} for (key, was), (_, now) in both] for name, both in pairs}
    for rows in slices.values():
        for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_value_holm"] = p_value
    needed = {f"{points} points": questions_needed(flipped, points / 100) for points in (1, 2, 5)}
    return {
        "verdict": verdict(total, needed),
        **total,
        "p_value_test": P_VALUE_TEST,
        "questions_needed": needed,
        "slices": slices,
    }


def verdict(total: Mapping[str, Any], needed: Mapping[str, int]) -> str:
    """One sentence: better, worse, or not to be told apart; with how sure that is, or what it would take to be sure."""
    significant = total["p_value"] < 0.05
    more = "" if significant else f" To tell a difference of 2 points would take about {needed['2 points']} questions."
    return f"{headline(total)} ({certainty(total)}).{more}"


def headline(total: Mapping[str, Any]) -> str:
    """What changed, without a full stop. A change counts where its 95% interval leaves out 0 and p < 0.05.

    A gain of which there are findings is not called one without a word of them.
    """
    low, high = total["difference_ci95"]
    numbers = f"from {percent(total['before'])} to {percent(total['after'])}"
    if low <= 0 <= high or total["p_value"] >= 0.05:
        return f"No change in accuracy can be told: {numbers}"
    change = f"Accuracy {'rose' if low > 0 else 'fell'} by {abs(100 * total['difference']):.1f} points, {numbers}"
    return change + (caveat(total.get("findings", ())) if low > 0 else "")


def caveat(findings: Sequence[str]) -> str:
    """What a headline adds to a gain, where the answers do not come from the image."""
    if not findings:
        return ""
    blind = any(finding.startswith(NEEDS_NONE) for finding in findings)
    return ", but not by looking at the images" if blind else ", but not all by looking at the images"


def certainty(total: Mapping[str, Any]) -> str:
    """The interval of the change in points, the p-value, and the number of answers, questions and images."""
    low, high = (100 * bound for bound in total["difference_ci95"])
    sample = f"{asked(total)} about {total['images']} images"
    return f"95% interval of the change {low:+.1f} to {high:+.1f} points, {p_text(total['p_value'])}; {sample}"


def asked(row: Mapping[str, Any]) -> str:
    """How many questions a result or a comparison is of; of several answers to each, how many of these, too."""
    answers = row["n"]
    questions = row.get("questions", answers // row.get("samples", 1))
    return f"{questions} questions" if answers == questions else f"{answers} answers to {questions} questions"


def p_text(p_value: float) -> str:
    """A p-value as text people read."""
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"

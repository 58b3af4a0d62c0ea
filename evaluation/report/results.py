"""What an evaluation leaves: the result record of each side, and the record of their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.files import sha256
from datagen.registry import find_task
from datagen.task import reward_hash
from evaluation.config import EvalPlan, Side
from evaluation.generation import Answers
from evaluation.metrics.comparison import compare
from evaluation.metrics.external_results import mark_other_questions
from evaluation.metrics.scoring import Scored, sampled, slices, summary
from evaluation.model_source import record_mismatches

if TYPE_CHECKING:
    from datasets import Dataset

Record = dict[str, Any]
"""Something that is written as JSON."""


@dataclass(frozen=True)
class EvalResult:
    """What came out of an evaluation, as a notebook or the report uses it.

    `out` is the folder with the files. `results` holds the record of each side, by its name: `after` alone, or `before`
    (the baseline) and `after`. `scored` holds their messages and rewards, in the order of the dataset, with `samples`
    answers to each question one after the other. `comparison` is the record of both sides, None without a baseline.
    `rows` are the questions with their images.

    A result has `n` questions, `accuracy`, `accuracy_ci95` (two numbers) and the mean of each reward, as shares from 0
    to 1, and `seconds` of generation. A comparison has `before`, `after`, `difference`, and `difference_ci95` in their
    place.
    """

    out: Path
    rows: Dataset
    samples: int
    results: Mapping[str, Record]
    scored: Mapping[str, Scored]
    comparison: Record | None

    @property
    def summary(self) -> Record:
        """The comparison, or without a baseline the only result."""
        return self.comparison or self.results["after"]

    def row(self, answer: int) -> dict[str, Any]:
        """The question that an answer belongs to, by the answer's index in `scored`.

        Raises:
            IndexError: where there is no such answer.
        """
        row: dict[str, Any] = self.rows[answer // self.samples]
        return row


def make_result(plan: EvalPlan, side: Side, answers: Answers, scored: Scored, warnings: Sequence[str]) -> Record:
    """The record of one side, with `warnings` about its answers, and those about its checkpoint's record.

    Its completions must be written already: the record holds their hash.
    """
    record = side.model.record
    return {
        "model": side.model.name,
        "stage": record.get("stage"),
        "shown": record.get("shown"),
        "data": plan.dataset.name,
        "dataset_fingerprint": plan.dataset.fingerprint,
        "split": plan.split,
        "task": plan.task,
        "tasks": plan.tasks,
        **summary(scored),
        **(sampled(scored, plan.sampling.samples) if plan.sampling.samples > 1 else {}),
        "slices": slices(scored, plan.dataset.spec.difficulty),
        "engine": dict(answers.backend),
        "settings": plan.sampling.as_json() if side.model.is_model else {},
        "seconds": answers.seconds,
        "unanswered": answers.unanswered,
        "reward_hash": {name: reward_hash(find_task(name)) for name in plan.tasks},
        "versions": {"r1vlm": version("r1vlm")},
        "completions_sha256": sha256(side.completions),
        "warnings": [*record_mismatches(side.model, plan.dataset, plan.tasks), *warnings],
    }


def make_comparison(plan: EvalPlan, results: Mapping[str, Record], scored: Mapping[str, Scored]) -> Record:
    """The record of `before` and `after` on the same questions."""
    after = results["after"]
    return {
        **compare(scored["before"], scored["after"], plan.dataset.spec.difficulty, after["findings"]),
        **{key: after[key] for key in ("data", "dataset_fingerprint", "split", "task", "tasks", "reward_hash")},
        **{key: {side: results[side][key] for side in results} for key in ("model", "stage", "shown")},
        "direct": results["before"].get("direct"),
        "controls": after["controls"],
        "beside": mark_other_questions(plan.beside, after),
        "warnings": [sentence for side in ("after", "before") for sentence in results[side]["warnings"]],
    }

"""What an evaluation leaves: the result record of each side, and the record of their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
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
    """What a report shows. `rows` are the questions with their images; `comparison` is None without a baseline.

    Each question has been asked `samples` times, one after the other.
    """

    rows: Dataset
    samples: int
    results: Mapping[str, Record]
    scored: Mapping[str, Scored]
    comparison: Record | None

    def row(self, place: int) -> dict[str, Any]:
        """The question of the answer at a place."""
        found: dict[str, Any] = self.rows[place // self.samples]
        return found


def make_result(plan: EvalPlan, side: Side, answers: Answers, scored: Scored) -> Record:
    """The record of one side. Its completions must be written already: the record holds their hash."""
    record = side.subject.record
    return {
        "model": side.subject.name,
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
        "engine": dict(answers.engine),
        "settings": plan.sampling.as_json() if side.subject.is_model else {},
        "seconds": answers.seconds,
        "reward_hash": {name: reward_hash(find_task(name)) for name in plan.tasks},
        "versions": {"r1vlm": version("r1vlm")},
        "completions_sha256": sha256(side.completions),
        "warnings": record_mismatches(side.subject, plan.dataset, plan.tasks),
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
        "warnings": plan.warnings,
    }

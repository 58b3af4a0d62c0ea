"""The training film: a few held-out questions, answered by successive checkpoints of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from evaluation.backends.base import Sampling
from evaluation.config import EvalPlan
from evaluation.generation import AnswerGenerator, Questions
from evaluation.metrics.scoring import Question, Scored
from evaluation.model_source import open_model
from evaluation.prompt_variants import R1

FRAMES = 7  # checkpoints at most: each is loaded for it
QUESTIONS = 8


@dataclass(frozen=True)
class CheckpointSamples:
    """The places of the questions among those of the plan, and their scored answers by the name of a checkpoint."""

    places: Sequence[int]
    frames: Mapping[str, Scored]


def sample_checkpoints(plan: EvalPlan, asked: Questions) -> CheckpointSamples | None:
    """The film of the run that the checkpoint is of, the baseline first; None where its checkpoints are not here."""
    checkpoints = pick_evenly(checkpoints_of(plan), FRAMES)
    if len(checkpoints) < 2:
        return None
    places = pick_questions(asked.questions, plan.dataset.spec.difficulty)
    few = Questions(asked.rows.select(places), [asked.questions[i] for i in places], asked.known)
    subjects = {f"step {step_of(path)}": open_model(str(path)) for path in checkpoints}
    if plan.baseline is not None and plan.baseline.is_model:
        subjects = {"before": plan.baseline, **subjects}
    # Greedily, and by whatever pays off for a few questions, not by the engine for all of them.
    short = replace(plan, engine="auto", sampling=Sampling(plan.sampling.max_new_tokens, 0.0, 1))
    return CheckpointSamples(
        places, {name: AnswerGenerator(short, subject).ask(R1, few)[1] for name, subject in subjects.items()}
    )


def checkpoints_of(plan: EvalPlan) -> list[Path]:
    """The checkpoints of the subject's run up to itself, in order; none for a server or for completions."""
    run = plan.subject.record.get("run")
    if run is None or not plan.subject.is_model or plan.subject.endpoint is not None:
        return []
    last = plan.subject.record.get("step", 0)
    found = sorted(Path(run).glob("checkpoint-*"), key=step_of)
    return [path for path in found if step_of(path) <= last]


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def pick_evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, the first and the last among them, equally far apart."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def pick_questions(questions: Sequence[Question], difficulty: str) -> list[int]:
    """The places of a few questions: the first of each task and difficulty, then the second, and so on."""
    groups: dict[tuple[str, object], list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault((question["task"], question[difficulty]), []).append(place)
    turns = chain.from_iterable(zip_longest(*(groups[key] for key in sorted(groups, key=str))))
    return [place for place in turns if place is not None][:QUESTIONS]

"""A few held-out questions, answered by successive checkpoints of a run: the report plays them as a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from datagen.common.errors import UserError
from datagen.hub.run_folder import step_of, whole_checkpoints
from evaluation.backends.base import Sampling
from evaluation.config import EvalPlan
from evaluation.generation import AnswerGenerator, Questions
from evaluation.metrics.scoring import Question, Scored
from evaluation.model_source import open_model
from evaluation.taskset_variant import usual_variant

MAX_CHECKPOINTS = 7  # each is loaded
MAX_QUESTIONS = 8


@dataclass(frozen=True)
class CheckpointSamples:
    """The indices of the questions among those of the plan, and their scored answers by the name of a checkpoint."""

    indices: Sequence[int]
    scored: Mapping[str, Scored]


def sample_checkpoints(plan: EvalPlan, questions: Questions) -> CheckpointSamples | None:
    """Answers of the run that the model is of, the baseline's first; None where the run's checkpoints are not here.

    Says which checkpoints are left out, since they are not whole or can't be loaded.
    """
    checkpoints, left_out = checkpoints_of(plan)
    named = {f"step {step_of(path)}": str(path) for path in pick_evenly(checkpoints, MAX_CHECKPOINTS)}
    if len(named) > 1 and plan.baseline is not None and plan.baseline.is_model:
        named = {"before": plan.baseline.name, **named}
    indices = pick_questions(questions.examples, plan.dataset.spec.difficulty)
    few = Questions(questions.rows.select(indices), [questions.examples[i] for i in indices], questions.split_ids)
    # Greedily, and by the backend that suits a few questions, not by that for all of them.
    short = replace(plan, backend="auto", sampling=Sampling(plan.sampling.max_new_tokens, 0.0, 1))
    scored: dict[str, Scored] = {}
    for name, path in named.items() if len(named) > 1 else ():
        try:
            model = open_model(path)
            scored[name] = AnswerGenerator(short, model).generate(usual_variant(plan.taskset, model), few)[1]
        except UserError as error:  # the results are there: the report does without
            left_out.append(f"{name} is left out: {error}")
    for sentence in left_out:
        print(f"note: {sentence}", flush=True)
    return CheckpointSamples(indices, scored) if len(scored) > 1 else None


def checkpoints_of(plan: EvalPlan) -> tuple[list[Path], list[str]]:
    """The whole checkpoints of the model's run up to itself, in order, and a sentence on each that is left out.

    None for a server or for completions.
    """
    run = plan.model.run
    if run is None or plan.model.endpoint is not None:
        return [], []
    checkpoints, left_out = whole_checkpoints(run)
    return [path for path in checkpoints if step_of(path) <= plan.model.record["step"]], left_out


def pick_evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, the first and the last among them, equally far apart."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def pick_questions(examples: Sequence[Question], difficulty: str) -> list[int]:
    """The indices of a few examples: the first of each task and difficulty, then the second, and so on."""
    groups: dict[tuple[str, object], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault((example["task"], example[difficulty]), []).append(index)
    turns = chain.from_iterable(zip_longest(*(groups[key] for key in sorted(groups, key=str))))
    return [index for index in turns if index is not None][:MAX_QUESTIONS]

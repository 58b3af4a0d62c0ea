"""One side of an evaluation: generate or read the completions of one model, score them, and write its files."""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from datagen.common.files import write_json
from datagen.common.formatting import visible
from datagen.environment import replay
from datagen.interaction import Episode
from datagen.registry import find_task
from evaluation.completions import (
    check_images,
    full_messages,
    generated,
    oddities,
    read_completions,
    write_completions,
)
from evaluation.config import EvalPlan, Side
from evaluation.generation import AnswerGenerator, Answers, Questions
from evaluation.metrics.ablations import findings, of_right
from evaluation.metrics.external_results import mark_other_questions
from evaluation.metrics.scoring import Scored, score_episodes, summary
from evaluation.metrics.statistics import paired_difference
from evaluation.prompt_variants import DIRECT, ablation_variants
from evaluation.report.exports import write_samples
from evaluation.report.results import Record, make_result
from evaluation.taskset_variant import usual_variant


def evaluate_side(plan: EvalPlan, side: Side, questions: Questions) -> tuple[Record, Scored]:
    """The result of one side, and its scores. Its result, completions and sample logs are written."""
    more: Record = {"controls": {}}
    warnings: list[str]
    if side.model.is_model:
        generator = AnswerGenerator(plan, side.model)
        answers, scored = generator.generate(usual_variant(plan.taskset, side.model), questions)
        if side.model is plan.baseline and plan.taskset is None:
            more["direct"] = summary(generator.generate(DIRECT, questions)[1])
        elif plan.controls:
            more["controls"] = run_ablations(generator, questions, scored)
        warnings = generator.warnings
    else:
        answers, scored, warnings = _read_answers(plan, side.model.path, questions)
    write_completions(side.completions, [question["id"] for question in scored.questions], answers.episodes)
    if plan.log_samples:
        write_samples(plan, side, scored)
    more["findings"] = findings(scored, more["controls"])
    result = make_result(plan, side, answers, scored, warnings) | more
    if plan.baseline is None:
        result["beside"] = mark_other_questions(plan.beside, result)
    write_json(side.result, result)
    return result, scored


def run_ablations(generator: AnswerGenerator, questions: Questions, scored: Scored) -> dict[str, Any]:
    """For each ablation its summary, and `lost`, by how much the accuracy is lower than with the right image.

    A question is asked as often as it was with its image. Where another answer is right then, `of_right` says how many
    of those that are right with the right image are right with the other one, too. Says so where there is no
    other image to show.
    """
    dataset = generator.plan.dataset
    ablations = {}
    for variant in ablation_variants(dataset.spec, dataset.manifest["recipe"]["options"]):
        if variant.others_shown and len(set(scored.images)) == 1:
            print(f"note: nothing is asked with {variant.title}: all questions are about one image", flush=True)
            continue
        _, without = generator.generate(variant, questions)
        lost = paired_difference(without.correctness, scored.correctness, scored.images)
        ablations[variant.name] = {
            "title": variant.title,
            **summary(without),
            "lost": lost.mean,
            "lost_ci95": list(lost.interval),
            "p_value": lost.p_value,
        }
        if variant.changes_truth and (scored.correctness == 1).any():
            ablations[variant.name]["of_right"] = of_right(scored, without)
    return ablations


def _read_answers(plan: EvalPlan, path: Path, questions: Questions) -> tuple[Answers, Scored, list[str]]:
    """The answers in a file of completions, their scores, and what there is to say about them."""
    start = time.perf_counter()
    ids = [example["id"] for example in questions.examples]
    split_name = f"the {plan.split} split of {plan.dataset.name}"
    samples = plan.sampling.samples
    read = read_completions(path, [name for name in ids for _ in range(samples)], questions.split_ids, split_name)
    said, notes = full_messages([message for recorded in read for message in recorded.messages])
    for note in notes:
        print(f"note: {note}", flush=True)
    doubts = [f"{visible(path.name)}: {sentence}" for sentence in oddities([generated(text) for text in said])]
    for sentence in doubts:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    texts, examples, episodes = iter(said), [], []
    for number, recorded in enumerate(read):
        example = questions.examples[number // samples]
        task = find_task(example["task"])
        messages = list(islice(texts, len(recorded.messages)))
        if task.interaction is None:
            episode = Episode(messages[-1:])
        else:
            episode = replay(task, messages, questions.rows[number // samples])
            check_images(path, example["id"], recorded, episode)
        examples.append(example)
        episodes.append(episode)
    answers = Answers(episodes, {"name": "completions file"}, time.perf_counter() - start)
    return answers, score_episodes(examples, episodes), [*notes, *doubts]

"""Carrying out a plan: ask or read, score, compare, write, and say what came out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from datagen.common.files import write_json
from datagen.hub.cards import CARD, model_card
from datagen.hub.publish import Published, publish
from evaluation.completions import read_completions, write_completions
from evaluation.config import EvalPlan, Publication, Side
from evaluation.generation import AnswerGenerator, Answers, Questions, select_questions
from evaluation.metrics.ablations import findings
from evaluation.metrics.external_results import mark_other_questions
from evaluation.metrics.scoring import Scored, score, summary
from evaluation.metrics.statistics import paired_difference
from evaluation.prompt_variants import DIRECT, R1, ablation_variants
from evaluation.report.checkpoint_samples import sample_checkpoints
from evaluation.report.exports import write_rows, write_samples
from evaluation.report.html import write_report
from evaluation.report.results import EvalResult, Record, make_comparison, make_result
from evaluation.report.tables import comparison_table, result_table


def evaluate(plan: EvalPlan) -> None:
    """Do what the plan asks for, and print the table, the verdict and where the files are."""
    for warning in plan.warnings:
        print(f"warning: {warning}", flush=True)
    asked = select_questions(plan)
    results: dict[str, Record] = {}
    scored: dict[str, Scored] = {}
    for name, side in plan.sides.items():
        results[name], scored[name] = evaluate_side(plan, side, asked)
    write_rows(plan.out / "rows.jsonl", results, scored)
    comparison = None
    if plan.baseline is not None:
        comparison = make_comparison(plan, results, scored)
        write_json(plan.out / "comparison.json", comparison)
    outcome = EvalResult(asked.rows, plan.sampling.samples, results, scored, comparison)
    if plan.report:
        write_report(plan.out / "report.html", plan, outcome, sample_checkpoints(plan, asked))
    _say(plan, outcome)
    if plan.push is not None:
        print(publish_card(plan, outcome, plan.push))


def publish_card(plan: EvalPlan, outcome: EvalResult, push: Publication) -> Published:
    """Publish the model's card with what came out, beside the very checkpoint that was evaluated.

    Raises:
        UserError: where the repository holds another one by now, or the Hub refuses.
    """
    result = outcome.comparison or outcome.results["after"]
    card = model_card(plan.subject.record, repo=push.to.repo, curve=push.curve, result=result)
    return publish(push.to, {CARD: card.encode()}, push.mark, whole=False)


def evaluate_side(plan: EvalPlan, side: Side, asked: Questions) -> tuple[Record, Scored]:
    """The record of one side, and its scores; the record and the completions are written."""
    more: Record = {"controls": {}}
    if side.subject.is_model:
        model = AnswerGenerator(plan, side.subject)
        answers, scored = model.ask(R1, asked)
        if side.subject is plan.baseline:
            more["direct"] = summary(model.ask(DIRECT, asked)[1])
        elif plan.controls:
            more["controls"] = run_ablations(model, asked, scored)
    else:
        answers, scored = _from_file(plan, side.subject.path, asked)
    write_completions(side.completions, [question["id"] for question in scored.questions], answers.messages)
    if plan.log_samples:
        write_samples(plan, side, scored)
    more["findings"] = findings(scored, more["controls"])
    result = make_result(plan, side, answers, scored) | more
    if plan.baseline is None:
        result["beside"] = mark_other_questions(plan.beside, result)
    write_json(side.result, result)
    return result, scored


def run_ablations(model: AnswerGenerator, asked: Questions, scored: Scored) -> dict[str, Any]:
    """For each control its summary, and `lost`, by how much the accuracy is lower than with the right image.

    Greedy or not, a question is asked as often as it was with its image.
    """
    found = {}
    for variant in ablation_variants(model.plan.dataset.spec, model.plan.dataset.manifest["recipe"]["options"]):
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


def _from_file(plan: EvalPlan, path: Path, asked: Questions) -> tuple[Answers, Scored]:
    start = time.perf_counter()
    where = f"the {plan.split} split of {plan.dataset.name}"
    questions = [question for question in asked.questions for _ in range(plan.sampling.samples)]
    messages = read_completions(path, [question["id"] for question in questions], asked.known, where)
    return Answers(messages, {"name": "completions file"}, time.perf_counter() - start), score(questions, messages)


def _say(plan: EvalPlan, outcome: EvalResult) -> None:
    """Print what came out and where it is."""
    shown = outcome.comparison or outcome.results["after"]
    if outcome.comparison:
        print(f"\n{comparison_table(shown)}\n\n{shown['verdict']}\n")
    else:
        print(f"\n{result_table(shown)}\n")
    for sentence in shown["findings"]:
        print(sentence)
    for row in shown["beside"]:
        if row["other_questions"]:
            print(f"note: {row['name']} was scored on other questions")
    print(f"files: {plan.out}")
    if plan.report:
        print(f"report: {plan.out / 'report.html'}")

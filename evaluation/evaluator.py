"""The whole evaluation: score one or two models, compare them, write the files, and print what came out."""

from __future__ import annotations

from datagen.common.files import write_json
from datagen.common.locks import locked_folder
from datagen.hub.cards import CARD, model_card
from datagen.hub.publish import Published, publish
from evaluation.checkpoint_selection import select_checkpoint
from evaluation.config import EvalConfig, EvalPlan, Publication, make_plan
from evaluation.generation import select_questions
from evaluation.metrics.scoring import Scored
from evaluation.report.checkpoint_samples import sample_checkpoints
from evaluation.report.exports import write_rows
from evaluation.report.html import write_report
from evaluation.report.look_ups import find_look_ups
from evaluation.report.results import EvalResult, Record, make_comparison
from evaluation.report.tables import comparison_table, result_table
from evaluation.side import evaluate_side


def evaluate(config: EvalConfig) -> EvalResult:
    """Evaluate a checkpoint or its completions; what `r1vlm-eval` does.

    Prints the table, the verdict and where the files are. The completions that a model generates are cached: calling
    this again after an interruption goes on where it stopped.

    Raises:
        UserError: for a mistake in the configuration, before anything is loaded; where another evaluation writes to
            the folder, the model can't be loaded, or a server does not answer.
    """
    if config.curve:
        config = config.model_copy(update={"checkpoint": str(select_checkpoint(config)), "curve": False})
    plan = make_plan(config)
    for warning in plan.warnings:
        print(f"warning: {warning}", flush=True)
    busy = f"another r1vlm-eval writes to {plan.out}: wait for it, or name another folder with --out"
    with locked_folder(plan.out, busy):
        result = evaluate_plan(plan)
    print_result(plan, result)
    if plan.push is not None:
        print(publish_card(plan, result, plan.push))
    return result


def evaluate_plan(plan: EvalPlan) -> EvalResult:
    """The results of both sides, and their comparison; all files are written into `plan.out`.

    Raises:
        UserError: where a model can't be loaded, no question gets an answer, or a file can't be written.
    """
    questions = select_questions(plan)
    results: dict[str, Record] = {}
    scored: dict[str, Scored] = {}
    for name, side in plan.sides.items():
        results[name], scored[name] = evaluate_side(plan, side, questions)
    write_rows(plan.out / "rows.jsonl", results, scored)
    comparison = None
    if plan.baseline is not None:
        comparison = make_comparison(plan, results, scored)
        write_json(plan.out / "comparison.json", comparison)
    result = EvalResult(plan.out, questions.rows, plan.sampling.samples, results, scored, comparison)
    if plan.report:
        samples, look_ups = sample_checkpoints(plan, questions), find_look_ups(plan, questions, result)
        write_report(plan.out / "report.html", plan, result, samples, look_ups)
    return result


def publish_card(plan: EvalPlan, result: EvalResult, push: Publication) -> Published:
    """Publish the model's card with what came out, beside the very checkpoint that was evaluated.

    Raises:
        UserError: where the repository holds another one by now, or the Hub refuses.
    """
    card = model_card(plan.model.record, repo=push.to.repo, curve=push.curve, result=result.summary)
    return publish(push.to, {CARD: card.encode()}, push.mark, whole=False)


def print_result(plan: EvalPlan, result: EvalResult) -> None:
    """Print the table, the verdict, the findings, and where the files are."""
    if result.comparison:
        print(f"\n{comparison_table(result.comparison)}\n\n{result.comparison['verdict']}\n")
    else:
        print(f"\n{result_table(result.summary)}\n")
    for sentence in result.summary["findings"]:
        print(sentence)
    for row in result.summary["beside"]:
        if row["other_questions"]:
            print(f"note: {row['name']} was scored on other questions")
    print(f"files: {result.out}")
    if plan.report:
        print(f"report: {result.out / 'report.html'}")

"""Carrying out a plan: ask or read, score, compare, write, and say what came out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from datagen.cards import CARD, model_card
from datagen.files import CURVE, RECORD, sha256, write_json
from datagen.hub import Mark, Published, Target, has_file, publish
from evaluation import engine
from evaluation.beside import mark_others
from evaluation.completions import read_completions, write_completions
from evaluation.outcome import Answers, Outcome, Record, make_comparison, make_result
from evaluation.plan import Plan, Side
from evaluation.report import write_report
from evaluation.score import ACCURACY, Question, Scored, score, score_one
from evaluation.subject import Subject
from evaluation.table import comparison_table, result_table

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Asked:
    """The questions of a plan: `rows` with the image, `questions` without; `known` are all ids of the split."""

    rows: Dataset
    questions: list[dict[str, Any]]
    known: set[str]

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the dataset."""
        return [question["id"] for question in self.questions]


def evaluate(plan: Plan) -> None:
    """Do what the plan asks for, and print the table, the verdict and where the files are."""
    for warning in plan.warnings:
        print(f"warning: {warning}", flush=True)
    asked = ask(plan)
    results: dict[str, Record] = {}
    scored: dict[str, Scored] = {}
    for name, side in plan.sides.items():
        results[name], scored[name] = evaluate_side(plan, side, asked)
    comparison = None
    if plan.baseline is not None:
        comparison = make_comparison(plan, results, scored)
        write_json(plan.out / "comparison.json", comparison)
    outcome = Outcome(asked.rows, results, scored, comparison)
    if plan.report:
        write_report(plan.out / "report.html", plan, outcome)
    _say(plan, outcome)
    if plan.push is not None:
        print(publish_card(plan, outcome, plan.push))


def publish_card(plan: Plan, outcome: Outcome, to: Target) -> Published:
    """Publish the model's card with what came out, beside the very checkpoint that was evaluated.

    Raises:
        UserError: where the repository holds another one, or the Hub refuses.
    """
    record, result = plan.subject.record, outcome.comparison or outcome.results["after"]
    card = model_card(record, repo=to.repo, curve=has_file(to, CURVE), result=result)
    return publish(to, {CARD: card.encode()}, Mark(RECORD, "checkpoint", record["checkpoint"]), whole=False)


def ask(plan: Plan) -> Asked:
    """The questions of the plan, in the order of the dataset."""
    split = plan.dataset.questions(plan.split)
    places = [i for i, task in enumerate(split["task"]) if task in plan.tasks][: plan.limit]
    rows = split.select(places)
    return Asked(rows, rows.remove_columns("image").to_list(), set(split["id"]))


def evaluate_side(plan: Plan, side: Side, asked: Asked) -> tuple[Record, Scored]:
    """The record of one side, and its scores; the record and the completions are written."""
    answers = _from_model(plan, side, asked) if side.subject.is_model else _from_file(plan, side.subject.path, asked)
    scored = score(asked.questions, answers.messages)
    write_completions(side.completions, asked.ids, answers.messages)
    result = make_result(plan, side, answers, scored)
    if plan.baseline is None:
        result["beside"] = mark_others(plan.beside, result)
    write_json(side.result, result)
    return result, scored


def _from_file(plan: Plan, path: Path, asked: Asked) -> Answers:
    start = time.perf_counter()
    where = f"the {plan.split} split of {plan.dataset.name}"
    messages = read_completions(path, asked.ids, asked.known, where)
    return Answers(messages, {"name": "completions file"}, time.perf_counter() - start)


def _from_model(plan: Plan, side: Side, asked: Asked) -> Answers:
    key = completions_key(plan, side.subject, asked.ids)
    if earlier := _earlier(side, key):
        print(f"{side.completions}: used again, made by the same weights from the same questions and settings")
        messages = _from_file(plan, side.completions, asked).messages
        return Answers(messages, earlier["engine"], earlier["seconds"], key)
    loaded = engine.load(side.subject.path, plan.max_new_tokens)
    start = time.perf_counter()
    messages = generate(loaded, asked.rows, asked.questions, plan.batch_size, side.subject.label)
    return Answers(messages, loaded.describe(), time.perf_counter() - start, key)


def completions_key(plan: Plan, subject: Subject, ids: Sequence[str]) -> str:
    """16 hexadecimal digits of everything that determines a model's completions, the kind of device apart."""
    parts = [subject.fingerprint(), plan.dataset.fingerprint, ids, plan.max_new_tokens, engine.versions()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _earlier(side: Side, key: str) -> Record | None:
    """The record of an earlier run whose completions can be used again, where there is one."""
    try:
        result: Record = json.loads(side.result.read_text(encoding="utf-8"))
        same = result["completions_key"] == key and result["completions_sha256"] == sha256(side.completions)
    except (OSError, ValueError, KeyError, TypeError):  # none, unfinished, or not ours
        return None
    return result if same else None


def generate(
    loaded: engine.Engine, rows: Dataset, questions: Sequence[Question], batch_size: int, label: str
) -> list[str]:
    """The model's full assistant messages, under a progress bar that shows the accuracy so far."""
    messages: list[str] = []
    right = 0.0
    with tqdm(total=len(questions), desc=label, unit="question") as progress:
        for question, message in zip(questions, engine.answer(loaded, rows, batch_size), strict=True):
            messages.append(message)
            right += score_one(question, message)[ACCURACY]
            progress.set_postfix_str(f"accuracy {right / len(messages):.1%}", refresh=False)
            progress.update()
    return messages


def _say(plan: Plan, outcome: Outcome) -> None:
    """Print what came out and where it is."""
    shown = outcome.comparison or outcome.results["after"]
    if outcome.comparison:
        print(f"\n{comparison_table(shown)}\n\n{shown['verdict']}\n")
    else:
        print(f"\n{result_table(shown)}\n")
    for row in shown["beside"]:
        if row["other_questions"]:
            print(f"note: {row['name']} was scored on other questions")
    print(f"files: {plan.out}")
    if plan.report:
        print(f"report: {plan.out / 'report.html'}")

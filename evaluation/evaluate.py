"""Carrying out a plan: ask or read, score, compare, write, and say what came out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from datagen.errors import UserError
from datagen.files import sha256, write_json
from datagen.task import reward_hash
from datagen.tasks import find_task
from evaluation import engine
from evaluation.beside import mark_others
from evaluation.compare import compare
from evaluation.completions import read_completions, write_completions
from evaluation.plan import Plan
from evaluation.score import ACCURACY, Question, Scored, score, score_one, slices, summary
from evaluation.subject import Subject, differences
from evaluation.table import comparison_table, result_table

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Asked:
    """The questions of a plan: `rows` with the image, `questions` without, `known` all ids of the split."""

    rows: Dataset
    questions: list[dict[str, Any]]
    known: set[str]

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the dataset."""
        return [question["id"] for question in self.questions]


@dataclass(frozen=True)
class Answers:
    """A full assistant message for each question, and how they came about."""

    messages: list[str]
    engine: dict[str, str]
    seconds: float
    key: str | None = None


@dataclass(frozen=True)
class Side:
    """One subject and the two files its evaluation leaves."""

    subject: Subject
    result: Path
    completions: Path


def evaluate(plan: Plan) -> None:
    """Do what the plan asks for, and print the table, the verdict and where the files are."""
    for warning in plan.warnings:
        print(f"warning: {warning}", flush=True)
    asked = ask(plan)
    if plan.baseline is None:
        side = Side(plan.subject, plan.out / "results.json", plan.out / "completions.jsonl")
        result, scored = evaluate_side(plan, side, asked)
        beside = mark_others(plan.beside, result)
        write_json(side.result, {**result, "beside": beside})
        _finish(plan, asked, {"after": result}, {"after": scored}, None, result_table(result, beside))
        return
    results, sides = {}, {}
    for name, subject in (("before", plan.baseline), ("after", plan.subject)):
        side = Side(subject, plan.out / f"{name}.json", plan.out / f"{name}.completions.jsonl")
        results[name], sides[name] = evaluate_side(plan, side, asked)
        write_json(side.result, results[name])
    comparison = make_comparison(plan, results, sides)
    write_json(plan.out / "comparison.json", comparison)
    text = f"{comparison_table(comparison)}\n\n{comparison['verdict']}"
    _finish(plan, asked, results, sides, comparison, text)


def ask(plan: Plan) -> Asked:
    """The questions of the plan, in the order of the dataset."""
    split = plan.dataset.questions(plan.split)
    places = [i for i, task in enumerate(split["task"]) if task in plan.tasks][: plan.limit]
    rows = split.select(places)
    return Asked(rows, rows.remove_columns("image").to_list(), set(split["id"]))


def evaluate_side(plan: Plan, side: Side, asked: Asked) -> tuple[dict[str, Any], Scored]:
    """The result record of one subject; its completions are written."""
    answers = _from_model(plan, side, asked) if side.subject.is_model else _from_file(plan, side.subject.path, asked)
    scored = score(asked.questions, answers.messages)
    write_completions(side.completions, asked.ids, answers.messages)
    return make_result(plan, side, answers, scored), scored


def _from_file(plan: Plan, path: Path, asked: Asked) -> Answers:
    start = time.perf_counter()
    where = f"the {plan.split} split of {plan.dataset.folder}"
    messages = read_completions(path, asked.ids, asked.known, where)
    return Answers(messages, {"name": "completions file"}, time.perf_counter() - start)


def _from_model(plan: Plan, side: Side, asked: Asked) -> Answers:
    key = completions_key(plan, side.subject, asked.ids)
    if earlier := _earlier(side, key):
        messages = _from_file(plan, side.completions, asked).messages
        print(f"{side.completions}: reused, made by the same weights with the same questions and settings")
        return Answers(messages, earlier["engine"], earlier["seconds"], key)
    loaded = engine.load(side.subject.path, plan.max_new_tokens)
    start = time.perf_counter()
    messages = generate(loaded, asked.rows, asked.questions, plan.batch_size, side.subject.label)
    return Answers(messages, loaded.describe(), time.perf_counter() - start, key)


def completions_key(plan: Plan, subject: Subject, ids: Sequence[str]) -> str:
    """16 hexadecimal digits of everything that determines a model's completions, the kind of device apart."""
    parts = [subject.fingerprint(), plan.dataset.fingerprint, ids, plan.max_new_tokens, engine.versions()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _earlier(side: Side, key: str) -> dict[str, Any] | None:
    """The result of an earlier run whose completions can be used again, where there is one."""
    try:
        result: dict[str, Any] = json.loads(side.result.read_text(encoding="utf-8"))
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


def make_result(plan: Plan, side: Side, answers: Answers, scored: Scored) -> dict[str, Any]:
    """The record that is written as a result file."""
    settings = {"max_new_tokens": plan.max_new_tokens, "greedy": True} if side.subject.is_model else {}
    return {
        "model": str(side.subject.path),
        "stage": side.subject.record.get("stage"),
        "shown": side.subject.record.get("shown"),
        "data": str(plan.dataset.folder),
        "dataset_fingerprint": plan.dataset.fingerprint,
        "split": plan.split,
        "task": plan.task,
        "tasks": plan.tasks,
        **summary(scored),
        "slices": slices(scored, plan.dataset.spec.difficulty),
        "engine": answers.engine,
        "settings": settings,
        "seconds": answers.seconds,
        "reward_hash": {name: reward_hash(find_task(name)) for name in plan.tasks},
        "versions": {"r1vlm": version("r1vlm")},
        "completions_key": answers.key,
        "completions_sha256": sha256(side.completions),
        "warnings": differences(side.subject, plan.dataset, plan.tasks),
    }


def make_comparison(plan: Plan, results: dict[str, dict[str, Any]], sides: dict[str, Scored]) -> dict[str, Any]:
    """The record that is written as comparison.json."""
    after = results["after"]
    both = {key: {side: results[side][key] for side in results} for key in ("model", "stage", "shown")}
    return {
        **{key: after[key] for key in ("data", "dataset_fingerprint", "split", "task", "tasks", "reward_hash")},
        **both,
        **compare(sides["before"], sides["after"], plan.dataset.spec.difficulty),
        "beside": mark_others(plan.beside, after),
        "warnings": plan.warnings,
    }


def _finish(
    plan: Plan,
    asked: Asked,
    results: dict[str, dict[str, Any]],
    sides: dict[str, Scored],
    comparison: dict[str, Any] | None,
    text: str,
) -> None:
    """Write the report where it is wanted, and print what came out."""
    if plan.report:
        from evaluation.report import write_report

        path = plan.out / "report.html"
        write_report(path, plan, asked.rows, results, sides, comparison)
    print(f"\n{text}\n")
    others = [row["name"] for row in (comparison or results["after"]).get("beside", []) if row["other_questions"]]
    for name in others:
        print(f"{name} was scored on other questions.")
    print(f"report: {path}" if plan.report else f"files: {plan.out}")

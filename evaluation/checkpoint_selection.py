"""The best checkpoint of a run: chosen on `validation`, so that its score on `test` is not the luck of the choice."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datagen.common.errors import UserError
from datagen.common.files import write_json
from evaluation.config import make_plan
from evaluation.evaluator import evaluate_side
from evaluation.generation import select_questions
from evaluation.report.checkpoint_samples import step_of
from evaluation.report.results import Record
from evaluation.report.tables import curve_table

CHOSEN_ON = "validation"


def select_checkpoint(arguments: Namespace) -> str:
    """The checkpoint of the run folder with the highest accuracy on `validation`, the earliest of equals.

    Prints the accuracy of each, and writes them to `curve.json`.

    Raises:
        UserError: where the folder holds no checkpoints.
    """
    run = Path(arguments.checkpoint)
    checkpoints = sorted(run.glob("checkpoint-*"), key=step_of)
    if not checkpoints:
        raise UserError(f"{run} holds no checkpoints: name a run folder of r1vlm-train with --curve")
    results = [_score(arguments, path) for path in checkpoints]
    rows = [
        {"step": step_of(path), **{key: result[key] for key in ("accuracy", "accuracy_ci95", "n")}}
        for path, result in zip(checkpoints, results, strict=True)
    ]
    best = max(range(len(rows)), key=lambda i: (rows[i]["accuracy"], -i))
    write_json(arguments.out / "curve.json", {"split": CHOSEN_ON, "best": rows[best]["step"], "checkpoints": rows})
    print(f"\n{curve_table(rows, best)}\nchosen on {CHOSEN_ON}: {checkpoints[best].name}\n", flush=True)
    return str(checkpoints[best])


def _score(arguments: Namespace, checkpoint: Path) -> Record:
    out = arguments.out / "curve" / checkpoint.name
    alone = {
        "split": CHOSEN_ON,
        "baseline": None,
        "controls": False,
        "report": False,
        "push_card": False,
        "samples": 1,
        "log_samples": False,
    }
    plan = make_plan(
        Namespace(**{**vars(arguments), **alone, "checkpoint": str(checkpoint), "temperature": None, "out": out})
    )
    record, _ = evaluate_side(plan, plan.sides["after"], select_questions(plan))
    return record

"""The best checkpoint of a run: chosen on `validation`, so that its score on `test` is not the luck of the choice."""

from __future__ import annotations

from pathlib import Path

from datagen.common.errors import UserError
from datagen.common.files import write_json
from datagen.hub.run_folder import step_of, whole_checkpoints
from evaluation.config import EvalConfig, make_plan
from evaluation.generation import select_questions
from evaluation.report.results import Record
from evaluation.report.tables import curve_table
from evaluation.side import evaluate_side

CHOSEN_ON = "validation"


def select_checkpoint(config: EvalConfig) -> Path:
    """The checkpoint of a run folder with the highest accuracy on `validation`, the earliest of equals.

    The run folder is `config.checkpoint`. Prints the accuracy of each checkpoint, and writes them to `curve.json`.

    Raises:
        UserError: where the folder holds no checkpoints, or the evaluation that follows would be refused.
    """
    run = Path(config.checkpoint)
    checkpoints, left_out = whole_checkpoints(run)
    for sentence in left_out:
        print(f"note: {sentence}", flush=True)
    if not checkpoints:
        raise UserError(f"{run} holds no checkpoints: name a run folder of r1vlm-train with --curve")
    # A mistake in what comes after is found now, and not when all checkpoints have answered.
    make_plan(config.model_copy(update={"checkpoint": str(checkpoints[-1]), "curve": False, "push": None}))
    results = [_evaluate_on_validation(config, path) for path in checkpoints]
    rows = [
        {"step": step_of(path), **{key: result[key] for key in ("accuracy", "accuracy_ci95", "n")}}
        for path, result in zip(checkpoints, results, strict=True)
    ]
    best = max(range(len(rows)), key=lambda i: (rows[i]["accuracy"], -i))
    write_json(config.out / "curve.json", {"split": CHOSEN_ON, "best": rows[best]["step"], "checkpoints": rows})
    print(f"\n{curve_table(rows, best)}\nchosen on {CHOSEN_ON}: {checkpoints[best].name}\n", flush=True)
    return checkpoints[best]


def _evaluate_on_validation(config: EvalConfig, checkpoint: Path) -> Record:
    """The result of a checkpoint alone: greedy answers, without baseline, ablations, report and publishing."""
    alone = {
        "checkpoint": str(checkpoint),
        "split": CHOSEN_ON,
        "out": config.out / "curve" / checkpoint.name,
        "baseline": None,
        "controls": False,
        "report": False,
        "push": None,
        "samples": 1,
        "temperature": None,
        "log_samples": False,
    }
    plan = make_plan(config.model_copy(update=alone))
    result, _ = evaluate_side(plan, plan.sides["after"], select_questions(plan))
    return result

"""`r1vlm-eval`: score a checkpoint or its completions, and compare it with another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from datagen.common.errors import Parser, UserError, run_command
from datagen.common.options import integer
from datagen.hub.publish import add_options
from evaluation.backends.base import BACKENDS


def temperature(text: str) -> float:
    """A number from 0 to 10."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10")
    return number


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(
        prog="r1vlm-eval",
        description="Score a checkpoint, or completions it has written, on questions it has not been trained on.",
    )
    add = parser.add_argument
    checkpoint = "a checkpoint folder, USER/NAME on the Hub, or a .jsonl of completions; or .json results to compare"
    add("checkpoint", metavar="CHECKPOINT", nargs="+", help=checkpoint)
    add("--task", metavar="NAME", help="a task, or a dataset for all of its tasks [all]")
    add("--data", metavar="DIR", help="a dataset folder or USER/NAME [the one in the checkpoint's record]")
    add("--split", default="test", help="train, validation or test [test]")
    add("--baseline", metavar="OTHER", help="score this one too, as before, and compare")
    add("--out", metavar="DIR", type=Path, default=Path("runs/eval"), help="the folder to write to [runs/eval]")
    add("--report", action="store_true", help="write report.html, a page to look at")
    add("--log-samples", action="store_true", help="write each answer as lm-evaluation-harness logs it")
    add("--beside", metavar="FILE", type=Path, nargs="+", action="extend", default=[], help="show these results too")
    add("--limit", metavar="N", type=integer(1), help="ask the first N questions alone")
    add("--curve", action="store_true", help="CHECKPOINT is a run folder: take its best checkpoint on validation")
    add("--controls", action="store_true", help="ask without the right image too: what is left of the accuracy?")
    add(
        "--samples",
        metavar="K",
        type=integer(1),
        default=1,
        help="answers to each question; several are random [1]",
    )
    add("--temperature", metavar="T", type=temperature, help="of the draw [0, or 1 with several samples]")
    add("--engine", choices=BACKENDS, default="auto", help="what answers [vllm where it pays off, else transformers]")
    add(
        "--endpoint", metavar="URL", help="a server that speaks OpenAI's protocol and has CHECKPOINT, as http://HOST/v1"
    )
    add("--batch-size", metavar="N", type=integer(1), help="questions at a time [128, of a server 32]")
    add("--max-new-tokens", metavar="N", type=integer(1), default=512, help="end an answer there [512]")
    add("--metrics", metavar="FILE", type=Path, help="draw this metrics.jsonl [that of the checkpoint's run]")
    hub = parser.add_argument_group("publishing on the Hugging Face Hub")
    hub.add_argument("--push-card", action="store_true", help="publish the model's card with what came out")
    add_options(hub, whole=False)
    return parser


def main() -> NoReturn:
    """Entry point of `r1vlm-eval`."""

    def command() -> None:
        arguments = make_parser().parse_args()
        if all(name.endswith(".json") for name in arguments.checkpoint):
            from evaluation.metrics.external_results import read_external_result
            from evaluation.report.tables import results_table

            print(results_table([read_external_result(Path(name)) for name in arguments.checkpoint]))
            return
        if len(arguments.checkpoint) > 1:
            raise UserError("only result files (.json) are compared by name alone: name one checkpoint, and --baseline")
        (arguments.checkpoint,) = arguments.checkpoint

        if arguments.curve:
            from evaluation.checkpoint_selection import select_checkpoint

            arguments.checkpoint = select_checkpoint(arguments)

        from evaluation.config import make_plan

        plan = make_plan(arguments)

        from evaluation.evaluator import evaluate

        evaluate(plan)

    run_command("r1vlm-eval", command)


if __name__ == "__main__":
    main()

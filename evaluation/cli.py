"""`r1vlm-eval`: score a checkpoint or its completions, and compare it with another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option

from datagen.common.command_line import APP, given_flags, print_version, run_app
from datagen.common.errors import UserError
from datagen.hub.flags import PANEL as PUBLISHING
from datagen.hub.flags import CreatePR, Repo, Revision, publish_options
from datagen.hub.publish import PublishOptions
from datagen.sources.split import Split
from evaluation.backends.base import BackendName

QUESTIONS, GENERATION, OUTPUT = "Questions", "Generation", "Output"
PUBLISH_FLAGS = ("push_card", "repo", "revision", "create_pr")

app = typer.Typer(**APP)


@app.command(epilog="[bold]r1vlm-eval play CHECKPOINT[/bold] opens a page to ask a checkpoint and see where it looks.")
def command(
    context: typer.Context,
    checkpoint: Annotated[
        list[str],
        Argument(
            metavar="CHECKPOINT",
            help="A checkpoint folder, USER/NAME on the Hub, a .jsonl file of completions, or a .yaml file with flags. "
            "Several .json results instead are printed in one table.",
        ),
    ],
    *,
    task: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Ask one task, or all tasks of a dataset.",
            show_default="all",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    data: Annotated[
        str | None,
        Option(
            metavar="DIR",
            help="Dataset folder, or USER/NAME on the Hub.",
            show_default="the one in the checkpoint's record",
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    task_file: Annotated[
        Path | None,
        Option(
            metavar="FILE.py",
            help="Know the datasets of this file. It is run.",
            show_default=False,
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    env: Annotated[
        str | None,
        Option(
            metavar="PACKAGE",
            help="Ask the taskset of verifiers in this installed package, judged by its own rewards. It is run.",
            show_default=False,
            rich_help_panel=QUESTIONS,
        ),
    ] = None,
    split: Annotated[Split, Option(help="Split to take the questions from.", rich_help_panel=QUESTIONS)] = "test",
    limit: Annotated[
        int | None, Option(metavar="N", min=1, help="Ask only the first N questions.", rich_help_panel=QUESTIONS)
    ] = None,
    baseline: Annotated[
        str | None, Option(metavar="OTHER", help="Score this one too, as the baseline, and compare.")
    ] = None,
    curve: Annotated[
        bool, Option("--curve", help="Take the best checkpoint of the run folder CHECKPOINT, chosen on validation.")
    ] = False,
    controls: Annotated[
        bool,
        Option("--controls", help="Ask again without the right image: how much accuracy is left?"),
    ] = False,
    engine: Annotated[
        BackendName,
        Option(
            metavar="ENGINE",
            help="transformers, vllm, openai, or auto: vllm where it pays off, else transformers.",
            rich_help_panel=GENERATION,
        ),
    ] = "auto",
    endpoint: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Ask an OpenAI-compatible server that has CHECKPOINT, such as http://localhost:8000/v1.",
            rich_help_panel=GENERATION,
        ),
    ] = None,
    samples: Annotated[
        int, Option(metavar="K", min=1, help="Generate K answers to each question.", rich_help_panel=GENERATION)
    ] = 1,
    temperature: Annotated[
        float | None,
        Option(
            metavar="T",
            min=0,
            max=10,
            help="Sampling temperature; 0 is greedy.",
            show_default="0, or 1 with several samples",
            rich_help_panel=GENERATION,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, Option(metavar="N", min=1, help="End an answer after N tokens.", rich_help_panel=GENERATION)
    ] = 512,
    batch_size: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="Generate for N questions at a time.",
            show_default="128, or 32 requests to a server",
            rich_help_panel=GENERATION,
        ),
    ] = None,
    out: Annotated[Path, Option(metavar="DIR", help="Folder to write to.", rich_help_panel=OUTPUT)] = Path("runs/eval"),
    report: Annotated[
        bool, Option("--report", help="Write report.html, with images and answers.", rich_help_panel=OUTPUT)
    ] = False,
    log_samples: Annotated[
        bool,
        Option("--log-samples", help="Log each answer as lm-evaluation-harness does.", rich_help_panel=OUTPUT),
    ] = False,
    beside: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="Show the results in this file too. Repeat for several.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Draw the training curves of this metrics.jsonl in the report.",
            show_default="that of the checkpoint's run",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    push_card: Annotated[
        bool,
        Option("--push-card", help="Publish the model's card with the results.", rich_help_panel=PUBLISHING),
    ] = False,
    repo: Repo = None,
    revision: Revision = None,
    create_pr: CreatePR = False,
    version: Annotated[
        bool, Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Score a checkpoint, or completions it has written, on questions it has not been trained on."""
    if all(name.endswith(".json") for name in checkpoint):
        print_results(checkpoint)
        return
    values = {name: value for name, value in given_flags(context).items() if name not in PUBLISH_FLAGS}
    values |= split_arguments(checkpoint, beside or [])
    push = publish_options(push_card, "--push-card", PublishOptions(repo, revision, create_pr))
    if push is not None:
        values["push"] = push
    # What follows is imported here: --help is to answer at once.
    from evaluation.config import make_config

    config = make_config(values)

    from evaluation.evaluator import evaluate

    evaluate(config)


def split_arguments(names: Sequence[str], beside: Sequence[Path]) -> dict[str, Any]:
    """The fields `checkpoint` and `beside`: result files behind the checkpoint join those of `--beside`.

    So `--beside A.json B.json` names both.

    Raises:
        UserError: where there are several checkpoints.
    """
    first, *results = names
    if not all(name.endswith(".json") for name in results) or first.endswith(".json"):
        raise UserError("only result files (.json) are compared by name alone: name one checkpoint, and --baseline")
    files = (*beside, *map(Path, results))
    return {"checkpoint": first, **({"beside": files} if files else {})}


def print_results(files: Sequence[str]) -> None:
    """Print the results in some files in one table.

    Raises:
        UserError: where one is missing, or holds no result.
    """
    from evaluation.metrics.external_results import read_external_result
    from evaluation.report.tables import results_table

    print(results_table([read_external_result(Path(name)) for name in files]))


def main() -> NoReturn:
    """Entry point of `r1vlm-eval`, and of `r1vlm-eval play`, which has flags of its own."""
    if sys.argv[1:2] == ["play"]:
        from evaluation.play.cli import app as play_app

        run_app("r1vlm-eval play", play_app, sys.argv[2:])
    run_app("r1vlm-eval", app)


if __name__ == "__main__":
    main()

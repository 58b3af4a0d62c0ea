"""`r1vlm-train`: the cold start and GRPO."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer import Argument, Option

from datagen.common.command_line import APP, given_flags, print_version, run_app
from datagen.common.errors import UserError
from datagen.hub.flags import PANEL as PUBLISHING
from datagen.hub.flags import CreatePR, Force, Private, Repo, Revision, publish_options
from datagen.hub.publish import PublishOptions

if TYPE_CHECKING:
    from training.config import RunConfig

HARDWARE, TRAINING = "Hardware (--dry-run shows the plan)", "Training (overrides the recipe)"
RECIPE = "the recipe's"  # what stands for the default of its settings

app = typer.Typer(**APP)


@app.command()
def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        Argument(
            metavar="TASK",
            help="A dataset (digits) for all its tasks, one task (sum), FILE.py:VARIABLE, or a .yaml file with flags.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Train this model: small, small-ciphers, small-messages, a folder, or USER/NAME on the Hub.",
            show_default="the recipe's, or Qwen2.5-VL-3B on a GPU and a small one without",
        ),
    ] = None,
    data: Annotated[
        str | None,
        Option(metavar="DIR", help="Dataset folder, or USER/NAME on the Hub.", show_default="data/DATASET"),
    ] = None,
    task: Annotated[
        str | None, Option(metavar="NAME", help="Train on this task of the dataset only.", show_default="all")
    ] = None,
    task_file: Annotated[
        Path | None, Option(metavar="FILE.py", help="Know the datasets of this file. It is run.", show_default=False)
    ] = None,
    env: Annotated[
        str | None,
        Option(
            metavar="PACKAGE",
            help="In place of TASK: the taskset of verifiers in this installed package. It is run.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, Option(metavar="DIR", help="Run folder.", show_default="runs/TASK")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue the run in --out.")] = False,
    cold_start: Annotated[bool, Option("--cold-start", help="Train on traces only, then stop.")] = False,
    seed: Annotated[int, Option(metavar="N", min=0, help="Seed of sampling and data order.")] = 0,
    no_report: Annotated[bool, Option("--no-report", help="Do not score the model before and after.")] = False,
    hardware: Annotated[
        str,
        Option(
            metavar="PRESET",
            help="Use this preset: cpu, 1gpu, 2gpu, 4gpu, 8gpu, multinode, ...; auto takes what is there.",
            rich_help_panel=HARDWARE,
        ),
    ] = "auto",
    nodes: Annotated[
        int | None,
        Option(
            metavar="N",
            min=2,
            help="Machines of multinode; one of them generates.",
            show_default="4",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    vllm: Annotated[
        Literal["off", "colocate", "server"] | None,
        Option(
            metavar="WHERE",
            help="Generate with vLLM: off, colocate (on the training GPUs) or server.",
            show_default="the preset's",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    no_preflight: Annotated[
        bool,
        Option(
            "--no-preflight",
            help="Do not check before the first step that the trainer and vLLM agree.",
            rich_help_panel=HARDWARE,
        ),
    ] = False,
    watchdog: Annotated[
        float,
        Option(metavar="MINUTES", help="Stop after this long without a step.", rich_help_panel=HARDWARE),
    ] = 30.0,
    gpu_memory: Annotated[
        float | None,
        Option(
            metavar="GIB",
            min=1,
            max=10_000,
            help="Plan for GPUs of this size.",
            show_default="what is there, or 80",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Print commands and memory, and start nothing.", rich_help_panel=HARDWARE),
    ] = False,
    doctor: Annotated[
        bool, Option("--doctor", help="Check what is installed here, and exit.", rich_help_panel=HARDWARE)
    ] = False,
    recipe: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Take settings from this recipe: default, lora, first-digits, qwen3-vl-4b, ...",
            show_default="the model's",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        Option(metavar="N", min=1, help="Optimisation steps.", show_default=RECIPE, rich_help_panel=TRAINING),
    ] = None,
    learning_rate: Annotated[
        float | None,
        Option(metavar="RATE", help="Peak learning rate.", show_default=RECIPE, rich_help_panel=TRAINING),
    ] = None,
    num_generations: Annotated[
        int | None,
        Option(
            metavar="N",
            min=2,
            help="Completions of a question: the size of a group.",
            show_default=RECIPE,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    curriculum: Annotated[
        Literal["none", "difficulty", "pool"] | None,
        Option(
            metavar="ORDER",
            help="Order of the questions: none (random), difficulty (easiest first) or pool (by solve rate).",
            show_default=RECIPE,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    traces: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="Solutions to train on in the cold start.",
            show_default=RECIPE,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    eval_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="Score validation every N steps and keep the best checkpoint.",
            show_default="never",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    report_to: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Log to this tracker: tensorboard, trackio or wandb.",
            show_default="none",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Read settings of TRL's GRPOConfig (or SFTConfig) from a YAML file.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="NAME=VALUE",
            help="Set any one of those. Repeat for several.",
            show_default=False,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    push_to_hub: Annotated[
        bool,
        Option("--push-to-hub", help="Publish the last checkpoint with its card.", rich_help_panel=PUBLISHING),
    ] = False,
    repo: Repo = None,
    revision: Revision = None,
    create_pr: CreatePR = False,
    private: Private = False,
    force: Force = False,
    version: Annotated[
        bool, Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train a vision-language model with GRPO on a task with checkable answers.

    Without a GPU it trains a small built-in model, cold start first.
    """
    if doctor:
        from training.launch.doctor import examine

        examine()
        return
    if env is not None:
        from datagen.taskset.questions import dataset_name

        if name not in (None, dataset_name(env)):
            raise UserError("--env names what to train on: leave out TASK")
        name = dataset_name(env)
    if name is None:
        raise UserError("name a TASK to train on, digits for example (see r1vlm-train --help)")
    push = publish_options(push_to_hub, "--push-to-hub", PublishOptions(repo, revision, create_pr, private, force))
    configured = read_flags(name, given_flags(context), push)
    # What follows is imported here: --help is to answer at once.
    from training import pipeline

    if dry_run:
        pipeline.dry_run(configured)
    else:
        run(configured)


def read_flags(name: str, flags: Mapping[str, Any], push: PublishOptions | None) -> RunConfig:
    """The configuration of a command line: a dataset, a task or a YAML file, and the flags given beside it.

    Raises:
        UserError: for a wrong value, an unknown key or a file that can't be read.
    """
    from datagen.common.config_file import is_config_file, read_config_file, validated
    from datagen.registry import add_file, find_dataset, find_dataset_or_task, is_file_name
    from training.config import RunConfig, parse_assignments

    source = "the command line"
    given = {flag: value for flag, value in flags.items() if flag in RunConfig.model_fields}
    if is_file_name(name):
        given["task_file"] = Path(name.partition(":")[0])
        name = find_dataset(name).name
    elif "task_file" in given:
        add_file(given["task_file"])
    values: dict[str, Any] = {"task": name}
    if is_config_file(name):
        values, source = read_config_file(Path(name)), name
    elif "task" in given:  # of the dataset NAME, whose folders stay the default
        dataset = find_dataset_or_task(name).name
        values |= {"data": f"data/{dataset}", "out": Path("runs") / name}
        given["task"] = dataset if given["task"] == "all" else given["task"]
    values |= given
    values |= {flag: False for flag in ("report", "preflight") if f"no_{flag}" in flags}
    if "assignments" in flags and isinstance(values.setdefault("settings", {}), dict):
        values["settings"] = values["settings"] | parse_assignments(flags["assignments"])
    if push is not None:
        values["push"] = push
    return validated(RunConfig, values, source)


def run(config: RunConfig) -> None:
    """Run a configuration to its end; where a launched process fails, exit with its launcher's code."""
    from training.launch.launcher import LaunchError
    from training.pipeline import run as run_pipeline

    try:
        run_pipeline(config, replace_process=True)
    except LaunchError as error:
        print(f"r1vlm-train: {error}", file=sys.stderr)
        sys.exit(error.code)


def main() -> NoReturn:
    """Entry point of `r1vlm-train`."""
    run_app("r1vlm-train", app)


if __name__ == "__main__":
    main()

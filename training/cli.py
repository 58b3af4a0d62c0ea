"""`r1vlm-train`: the cold start and GRPO."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datagen.common.errors import Parser, UserError, require_extra, run_command, writable_folder
from datagen.common.options import integer
from datagen.hub.publish import add_options, refuse_unused, resolve_target
from training.config import RUN_FILE, RunConfig, Stage, read_run
from training.distributed import FOLLOWED, LAUNCHED, is_main, is_trainer, leave_process_group
from training.launch.presets import restrict_gpus, visible_gpus
from training.models import DEFAULT_MODEL, SMALL
from training.recipes import load_recipe, recipe_for_model

if TYPE_CHECKING:
    from datagen.task import DatasetSpec
    from training.launch.planner import LaunchPlan

LOGS = "logs"
FINAL = "final"
COLD_START = "cold-start"


def positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def gibibytes(text: str) -> float:
    """The memory of a GPU."""
    if not 1 <= (size := positive(text)) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} GiB is not the memory of a GPU")
    return size


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(
        prog="r1vlm-train",
        usage="r1vlm-train TASK [options]",
        description="Train a vision-language model with GRPO on a task with checkable answers. "
        "Without a GPU it trains the small model that is built in, cold start first.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=27),
        allow_abbrev=False,  # the command goes to launched processes, without the options that placed it
    )
    parser.add_argument(
        "name", metavar="TASK", nargs="?", help="a dataset (digits) for all its tasks, or one task (sum)"
    )
    parser.add_argument("--model", help=f"small, small-ciphers, a folder or a Hub model [{DEFAULT_MODEL}]")
    parser.add_argument("--data", help="a folder, or USER/NAME on the Hub [data/NAME]")
    parser.add_argument("--task", help="train on this task of the dataset alone")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder [runs/TASK]")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--cold-start", action="store_true", help="train on traces only, then stop")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="N", help="[0]")
    parser.add_argument("--no-report", action="store_false", dest="report", help="do not score before and after")
    hardware = parser.add_argument_group("hardware (--dry-run shows the plan)")
    hardware.add_argument(
        "--hardware",
        default="auto",
        metavar="PRESET",
        help="cpu, 1gpu, 2gpu, 4gpu, 8gpu, multinode, ... [what is there]",
    )
    hardware.add_argument("--nodes", type=integer(2), metavar="N", help="machines of multinode; one generates [4]")
    hardware.add_argument(
        "--vllm", choices=("off", "colocate", "server"), metavar="HOW", help="off, colocate or server [the preset's]"
    )
    hardware.add_argument(
        "--no-preflight",
        action="store_false",
        dest="preflight",
        help="do not check before the first step that trainer and vLLM agree",
    )
    hardware.add_argument(
        "--watchdog", type=positive, default=30.0, metavar="MINUTES", help="stop after so long without a step [30]"
    )
    hardware.add_argument("--dry-run", action="store_true", help="print commands and memory, and start nothing")
    hardware.add_argument(
        "--gpu-memory", type=gibibytes, metavar="GIB", help="of a GPU, for --dry-run [as seen, or 80]"
    )
    hardware.add_argument("--doctor", action="store_true", help="check what is installed here, and stop")
    group = parser.add_argument_group("training, by default as the recipe has it (training/recipes)")
    group.add_argument("--recipe", metavar="NAME", help="default, lora, first-digits, qwen3-vl-4b, ... [the model's]")
    group.add_argument("--steps", type=integer(1), dest="max_steps", metavar="N", help="optimisation steps")
    group.add_argument("--learning-rate", type=positive, metavar="RATE", help="peak learning rate")
    group.add_argument("--num-generations", type=integer(2), metavar="N", help="completions a question (GRPO's group)")
    group.add_argument(
        "--curriculum", choices=("none", "difficulty"), metavar="ORDER", help="none, or difficulty: easy ones first"
    )
    group.add_argument("--traces", type=integer(1), metavar="N", help="solutions the cold start may see")
    group.add_argument(
        "--eval-steps", type=integer(1), metavar="N", help="score validation so often, keep the best too"
    )
    group.add_argument("--report-to", metavar="NAME", help="tensorboard, trackio or wandb [none]")
    group.add_argument("--config", type=Path, metavar="FILE", help="a YAML file of TRL's GRPOConfig (or SFTConfig)")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any one of those settings")
    hub = parser.add_argument_group("publishing on the Hugging Face Hub")
    hub.add_argument("--push-to-hub", action="store_true", help="publish the last checkpoint, with its card")
    add_options(hub)
    return parser


def command(arguments: argparse.Namespace) -> None:
    """`r1vlm-train`."""
    from datagen.registry import find_dataset_or_task

    if arguments.doctor:
        from training.launch.doctor import examine

        examine()
        return
    if arguments.name is None:
        raise UserError("name a TASK to train on, digits for example (see r1vlm-train --help)")
    owner = find_dataset_or_task(arguments.name)
    if arguments.dry_run:
        dry_run(arguments, owner)
    else:
        train(arguments, owner)


def train(arguments: argparse.Namespace, owner: DatasetSpec) -> None:
    """Train on the tasks of a dataset, then score what came out."""
    from datagen.dataset.reader import open_dataset, tasks_of
    from datagen.registry import TASKS
    from datagen.task import reward_hash

    built = open_dataset(arguments.data or Path("data") / owner.name)
    tasks = tasks_of(built, arguments.task or arguments.name)
    out = writable_folder(arguments.out or Path("runs") / arguments.name)
    if is_main() and LAUNCHED not in os.environ:
        check_folder(out, arguments.resume)
    check_options(arguments)
    require_extra("train", "torch", "transformers", "trl", "accelerate", "yaml", "matplotlib")
    quiet()
    from datagen.hub.cards import model_repository
    from training.config import make_trl_config
    from training.models import model_folder, pin_model
    from training.trainers.checkpoints import base_model_name, publish_checkpoint

    model = pin_model(arguments.model or recipe_model(arguments.recipe) or default_model(arguments.hardware, owner))
    recipe = arguments.recipe or recipe_for_model(model)
    if not arguments.push_to_hub:
        refuse_unused(arguments, "--push-to-hub")
    to = (
        resolve_target(arguments, "model", model_repository(tasks, base_model_name(model)))
        if arguments.push_to_hub
        else None
    )
    stage: Stage = "cold_start" if arguments.cold_start else "grpo"
    asked = RunConfig(
        stage=stage,
        model=model,
        data=built.name,
        tasks=tasks,
        out=str(out),
        seed=arguments.seed,
        settings=settings(arguments, recipe, stage),
        dataset_fingerprint=built.fingerprint,
        reward_hash={task: reward_hash(TASKS[task]) for task in tasks},
    )
    last, watchdog, launches = out / FINAL, 60 * arguments.watchdog, False
    plan, why = None, ""
    by_us = LAUNCHED in os.environ
    if stage == "grpo" and not last.exists() and (by_us or not is_trainer()):  # else another launcher has decided
        plan, why = plan_of(arguments, owner, asked, recipe)
        asked = place(plan, why, asked)
        launches = plan.preset.launched and not by_us
    before = dict(os.environ)
    if not is_trainer():
        restrict_gpus(0 if arguments.hardware == "cpu" or (plan is not None and not plan.preset.gpus) else 1)
    if plan is not None and plan.preset.gpus and not launches:
        check_torch()
    if stage == "grpo" and model in SMALL:  # it has never seen the R1 format
        if not launches and not last.exists():  # TRL's rule on batches needs all processes that train
            make_trl_config(asked)  # settings of GRPO that TRL refuses end here, before the cold start is trained
        asked = replace(asked, model=str(execute(cold_start_of(arguments, asked, recipe), watchdog)))
    if plan is not None and launches:
        launch_plan(plan, why, asked, watchdog)
    else:
        execute(asked, watchdog, preflight=arguments.preflight)
    if is_main() and FOLLOWED not in os.environ:  # else the launcher does, when the GPUs are free
        print(f"{last}: trained; score it with  r1vlm-eval {last}", flush=True)
        if to is not None:
            print(publish_checkpoint(last, to), flush=True)
    leave_process_group()
    if stage == "grpo" and arguments.report and not is_trainer():
        report(last, model_folder(asked.model), out, before)


def cold_start_of(arguments: argparse.Namespace, asked: RunConfig, recipe: str) -> RunConfig:
    """The cold start before a run of GRPO."""
    own = settings(arguments, recipe, "cold_start", own=False)
    return replace(asked, stage="cold_start", out=str(Path(asked.out) / COLD_START), hardware={}, settings=own)


def check_options(arguments: argparse.Namespace) -> None:
    """Raise a `UserError` for options of GRPO where it is not what was asked for."""
    if not arguments.cold_start:
        return
    for option in ("num_generations", "curriculum", "vllm", "eval_steps"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option.replace('_', '-')} is GRPO's: leave it out with --cold-start")


def report(after: Path, before: Path, out: Path, environment: dict[str, str]) -> None:
    """Become `r1vlm-eval` in an environment; it scores both checkpoints on the test split and writes the report.

    Become, and not call: what training holds of the GPU's memory is free then, and nothing of evaluation is imported.
    """
    import importlib.util

    if importlib.util.find_spec("scipy") is None:
        print("for a report of before and after:  pip install 'r1vlm[eval]'")
        return
    words = [str(after), "--baseline", str(before), "--out", str(out / "report"), "--report"]
    sys.stdout.flush()
    command = [sys.executable, "-m", "evaluation.cli", *words]
    os.execve(sys.executable, command, environment)  # noqa: S606 - there is no shell to fool


def check_torch() -> None:
    """Raise a `UserError` where torch can't use the GPUs that are there: it would train on the CPU, and not say so."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "torch can't use the GPU that is there: see r1vlm-train --doctor, or train on the CPU with --hardware cpu"
        )


def plan_of(arguments: argparse.Namespace, owner: DatasetSpec, asked: RunConfig, recipe: str) -> tuple[LaunchPlan, str]:
    """The plan of a run, and why it is this one."""
    from training.config import resolve_settings
    from training.launch.launch_config import plan_for, strip_launch_options

    own = resolve_settings(recipe, "grpo", None, {}, [])
    return plan_for(arguments, owner, asked, own, strip_launch_options(sys.argv[1:]))


def place(plan: LaunchPlan, why: str, asked: RunConfig) -> RunConfig:
    """The run with what follows from its hardware.

    Raises:
        UserError: where the hardware can't do it, or can't go on with what is in the run folder.
    """
    from training.launch.launch_config import check_move, check_resources, hardware_record

    placed = replace(asked, hardware=hardware_record(plan))
    if is_trainer():
        return placed
    if plan.preset.nodes == 1:
        check_resources(plan, visible_gpus())
    check_move(Path(asked.out), placed.hardware)
    print(f"hardware: {plan.preset.name} ({why}): {plan.preset.summary}", flush=True)
    return placed


def launch_plan(plan: LaunchPlan, why: str, asked: RunConfig, watchdog: float) -> None:
    """Start the processes of a run, and exit where they fail; for several machines, say how to start them, and exit."""
    from training.launch.launch_config import print_plan, with_model
    from training.launch.launcher import launch

    plan = with_model(plan, asked.model)
    if plan.preset.nodes > 1:
        print_plan(plan, why)
        sys.exit(0)
    if code := launch(plan, watchdog=watchdog):
        sys.exit(code)


def dry_run(arguments: argparse.Namespace, owner: DatasetSpec) -> None:
    """Print what would be started; needs neither the dataset nor the weights of the recipes' models."""
    from training.launch.launch_config import planned_model, print_plan

    model = recipe_model(arguments.recipe) if arguments.model is None else None
    model = model or planned_model(arguments, small_model(owner))
    recipe = arguments.recipe or recipe_for_model(model)
    tasks = [task.name for task in owner.tasks if task.name in (arguments.task or arguments.name)]
    asked = RunConfig(
        stage="grpo",
        model=model,
        data="",
        tasks=tasks or [task.name for task in owner.tasks],
        out=str(arguments.out or Path("runs") / arguments.name),
        seed=arguments.seed,
        settings=settings(arguments, recipe, "grpo"),
        dataset_fingerprint="",
        reward_hash={},
    )
    print_plan(*plan_of(arguments, owner, asked, recipe))


def check_folder(out: Path, resume: bool) -> None:
    """Raise a `UserError` where `out` holds something that this run would mix with."""
    if not out.is_dir() or {path.name for path in out.iterdir()} <= {LOGS}:  # of a launch that ended before training
        return
    if not resume:
        raise UserError(f"{out} is not empty: go on with its run with --resume, or name another folder with --out")
    if not any((folder / RUN_FILE).is_file() for folder in (out, out / COLD_START)):
        raise UserError(f"{out} holds no run to go on with: name another folder with --out")


def settings(arguments: argparse.Namespace, recipe: str, stage: Stage, *, own: bool = True) -> dict[str, Any]:
    """The settings of a stage. What was said on the command line is for the stage that was asked for (`own`)."""
    from training.config import resolve_settings

    traces = {"traces": arguments.traces} if stage == "cold_start" else {}
    if not own:
        return resolve_settings(recipe, stage, None, traces, [])
    of_grpo = ("num_generations", "curriculum", "eval_steps") if stage == "grpo" else ()
    names = ("max_steps", "learning_rate", "report_to", *of_grpo)
    options = {name: getattr(arguments, name) for name in names}
    return resolve_settings(recipe, stage, arguments.config, {**options, **traces}, arguments.set)


def execute(asked: RunConfig, watchdog: float, *, preflight: bool = True) -> Path:
    """Run a stage, or go on with it; returns `final` in its folder, a link to the last checkpoint.

    The process ends where no step comes within `watchdog` seconds.
    """
    from training.config import make_trl_config
    from training.launch.launcher import watched

    out = Path(asked.out)
    final = out / FINAL
    if not final.exists():
        make_trl_config(asked)  # settings that TRL refuses end here, before anything is written
    if is_main():
        claim(out, asked)
    if final.exists():
        if is_main():
            print(f"{final}: already trained, {final.resolve().name}")
        return final
    started = time.monotonic()
    if asked.stage == "grpo":
        from training.trainers import grpo
    else:
        from training.trainers import sft
    with watched(out, watchdog):
        last = grpo.train(asked, preflight=preflight) if asked.stage == "grpo" else sft.train(asked)
    if not is_main():
        return final
    final.symlink_to(last.name)
    print(f"{final}: {asked.stage.replace('_', ' ')}, {last.name}, {time.monotonic() - started:.0f} s")
    from training.callbacks.validation import BEST

    if (best := out / BEST).exists():
        print(f"{best}: the best on held-out questions, {best.resolve().name}")
    return final


def claim(out: Path, asked: RunConfig) -> None:
    """Note the run's configuration in its folder, or check that it is the one noted there.

    Raises:
        UserError: where the folder holds a run with another configuration; names the first difference.
    """
    from datagen.common.files import write_json

    path = out / RUN_FILE
    wanted = json.loads(json.dumps(asked.as_json()))
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    noted = read_run(out)
    apart = ("settings", "hardware")  # a run may go on elsewhere
    flat = [{**{k: v for k, v in run.items() if k not in apart}, **run.get("settings", {})} for run in (noted, wanted)]
    for name in {**flat[0], **flat[1]}:
        was, now = flat[0].get(name), flat[1].get(name)
        if was != now and name != "save_total_limit":  # which changes no step
            raise UserError(
                f"the run in {out} was started with {name}={was!r}, not {now!r}: repeat that, or name another --out"
            )
    if noted.get("hardware") != wanted["hardware"] and not (out / FINAL).exists():
        write_json(path, {**noted, "hardware": wanted["hardware"]})


def default_model(hardware: str, dataset: DatasetSpec) -> str:
    """Qwen2.5-VL-3B where there is a GPU to use, else the built-in model that can read what the dataset shows."""
    return DEFAULT_MODEL if hardware != "cpu" and visible_gpus() else small_model(dataset)


def recipe_model(name: str | None) -> str | None:
    """The model that a recipe is made for; None where it is made for none, or none is named."""
    return load_recipe(name).get("model") if name is not None else None


def small_model(dataset: DatasetSpec) -> str:
    """The built-in model that can read what the dataset shows."""
    return "small-ciphers" if "wordfreq" in dataset.sources else "small"


def quiet() -> None:
    """Leave the terminal to one progress bar: no bars for loading weights, no advice from libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()


def main() -> NoReturn:
    """Entry point of `r1vlm-train`."""
    run_command("r1vlm-train", lambda: command(make_parser().parse_args()))


if __name__ == "__main__":
    main()

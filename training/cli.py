"""`r1vlm-train`: the cold start and GRPO."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datagen.errors import Parser, UserError, need, run, writable_folder
from datagen.hub import add_options, check_unused, target
from datagen.options import whole
from training.config import Run, Stage
from training.model import DEFAULT_MODEL, SMALL

if TYPE_CHECKING:
    from datagen.task import DatasetSpec

RUN_FILE = "run.json"
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


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(
        prog="r1vlm-train",
        description="Train a vision-language model with GRPO on a task with checkable answers. "
        "Without a GPU it trains the small model that is built in, cold start first.",
    )
    parser.add_argument("name", metavar="TASK", help="a dataset (digits) for all its tasks, or one task (sum)")
    parser.add_argument(
        "--model",
        help="small (reads digits), small-ciphers (decoders too), a checkpoint folder or a Hub model "
        f"[{DEFAULT_MODEL}; without a GPU the small one that can read the dataset]",
    )
    parser.add_argument("--data", help="the dataset: a folder, or USER/NAME on the Hub [data/NAME]")
    parser.add_argument("--task", help="train on this task of the dataset alone")
    parser.add_argument("--out", type=Path, help="the run folder [runs/TASK]")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    parser.add_argument("--cold-start", action="store_true", help="supervised training on traces only, then stop")
    parser.add_argument("--seed", type=whole(0), default=0, help="[0]")
    hub = parser.add_argument_group("publishing on the Hugging Face Hub")
    hub.add_argument("--push-to-hub", action="store_true", help="publish the last checkpoint, with its card")
    add_options(hub)
    group = parser.add_argument_group("training, by default as the model's recipe has it (training/recipes)")
    group.add_argument("--steps", type=whole(1), dest="max_steps", help="optimisation steps")
    group.add_argument("--learning-rate", type=positive, help="peak learning rate")
    group.add_argument("--num-generations", type=whole(2), help="completions a question (GRPO's group)")
    group.add_argument("--traces", type=whole(1), help="solutions the cold start may see")
    group.add_argument("--vllm", choices=("off", "colocate", "server"), help="sample with vLLM [off]")
    group.add_argument(
        "--preflight",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check before the first step that trainer and vLLM agree [on]",
    )
    group.add_argument(
        "--eval-steps", type=whole(1), help="score validation so often, and keep the best checkpoint too [never]"
    )
    group.add_argument("--report-to", help="tensorboard, trackio or wandb; nothing leaves the machine by default")
    group.add_argument("--config", type=Path, help="a YAML file with any settings of TRL's GRPOConfig (or SFTConfig)")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any one of those settings")
    return parser


def train(arguments: argparse.Namespace) -> None:
    """`r1vlm-train`."""
    from datagen.dataset import open_dataset, tasks_of
    from datagen.task import reward_hash
    from datagen.tasks import TASKS, find_owner

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training in several processes is not supported yet: start r1vlm-train without a launcher")
    owner = find_owner(arguments.name)
    built = open_dataset(arguments.data or Path("data") / owner.name)
    tasks = tasks_of(built, arguments.task or arguments.name)
    out = writable_folder(arguments.out or Path("runs") / arguments.name)
    check_folder(out, arguments.resume)
    if arguments.cold_start:
        for option in ("num_generations", "vllm", "eval_steps"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option.replace('_', '-')} is GRPO's: leave it out with --cold-start")

    need("train", "torch", "transformers", "trl", "accelerate", "yaml", "matplotlib")
    if arguments.vllm not in (None, "off"):
        need("vllm", "vllm")
    quiet()
    from datagen.cards import model_repository
    from training.checkpoints import base_of, publish_checkpoint
    from training.config import trl_config
    from training.model import is_small, locate, pinned

    model = pinned(arguments.model or default_model(owner))
    recipe = "small" if is_small(locate(model)) else "default"
    if not arguments.push_to_hub:
        check_unused(arguments, "--push-to-hub")
    to = target(arguments, "model", model_repository(tasks, base_of(model))) if arguments.push_to_hub else None
    stage: Stage = "cold_start" if arguments.cold_start else "grpo"
    asked = Run(
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
    if stage == "grpo" and model in SMALL:  # it has never seen the R1 format
        first = replace(asked, stage="cold_start", out=str(out / COLD_START))
        first = replace(first, settings=settings(arguments, recipe, "cold_start", own=False))
        trl_config(asked)  # settings of GRPO that TRL refuses end here, before the cold start is trained
        asked = replace(asked, model=str(execute(first)))
    last = execute(asked, preflight=arguments.preflight)
    print(f"{last}: trained; score it with  r1vlm-eval {last}", flush=True)
    if to is not None:
        print(publish_checkpoint(last, to))


def check_folder(out: Path, resume: bool) -> None:
    """Raise a `UserError` where `out` holds something that this run would mix with."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not resume:
        raise UserError(f"{out} is not empty: go on with its run with --resume, or name another folder with --out")
    if not any((folder / RUN_FILE).is_file() for folder in (out, out / COLD_START)):
        raise UserError(f"{out} holds no run to go on with: name another folder with --out")


def settings(arguments: argparse.Namespace, recipe: str, stage: Stage, *, own: bool = True) -> dict[str, Any]:
    """The settings of a stage. What was said on the command line is for the stage that was asked for (`own`)."""
    from training.config import settings_for

    traces = {"traces": arguments.traces} if stage == "cold_start" else {}
    if not own:
        return settings_for(recipe, stage, None, traces, [])
    names = ("max_steps", "learning_rate", "report_to") + (("num_generations", "eval_steps") if stage == "grpo" else ())
    options = {name: getattr(arguments, name) for name in names}
    if stage == "grpo" and arguments.vllm is not None:
        options |= {"use_vllm": arguments.vllm != "off"}
        options |= {"vllm_mode": arguments.vllm} if arguments.vllm != "off" else {}
    return settings_for(recipe, stage, arguments.config, {**options, **traces}, arguments.set)


def execute(asked: Run, *, preflight: bool = True) -> Path:
    """Run a stage, or go on with it; returns `final` in its folder, a link to the last checkpoint."""
    from training.config import trl_config

    out = Path(asked.out)
    final = out / FINAL
    trl_config(asked)  # settings that TRL refuses end here, before anything is written
    claim(out, asked)
    if final.exists():
        print(f"{final}: already trained, {final.resolve().name}")
        return final
    started = time.monotonic()
    if asked.stage == "grpo":
        from training import grpo

        last = grpo.train(asked, preflight=preflight)
    else:
        from training import cold_start

        last = cold_start.train(asked)
    final.symlink_to(last.name)
    print(f"{final}: {asked.stage.replace('_', ' ')}, {last.name}, {time.monotonic() - started:.0f} s")
    return final


def claim(out: Path, asked: Run) -> None:
    """Note the run's configuration in its folder, or check that it is the one noted there.

    Raises:
        UserError: where the folder holds a run with another configuration; names the first difference.
    """
    from datagen.files import write_json

    path = out / RUN_FILE
    wanted = json.loads(json.dumps(asked.as_json()))
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    noted = json.loads(path.read_text(encoding="utf-8"))
    flat = [{**{k: v for k, v in run.items() if k != "settings"}, **run["settings"]} for run in (noted, wanted)]
    for name in {**flat[0], **flat[1]}:
        was, now = flat[0].get(name), flat[1].get(name)
        if was != now:
            raise UserError(
                f"the run in {out} was started with {name}={was!r}, not {now!r}: repeat that, or name another --out"
            )


def default_model(dataset: DatasetSpec) -> str:
    """Qwen2.5-VL-3B where there is a GPU, else the built-in model that can read what the dataset shows."""
    import torch

    if torch.cuda.is_available():
        return DEFAULT_MODEL
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
    run("r1vlm-train", lambda: train(make_parser().parse_args()))


if __name__ == "__main__":
    main()

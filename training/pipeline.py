"""A run from its start to its report: cold start, GRPO, and what is made of the last checkpoint."""

from __future__ import annotations

import gc
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datagen.common.errors import UserError, check_torchvision, require_extra, writable_folder
from training.config import RunConfig, Stage, StageConfig, check_adapter, check_generation, settings_of
from training.distributed import check_ranks, finishes_run, has_plan, is_launched, is_main, leave_process_group
from training.launch.presets import restrict_gpus, visible_gpus
from training.models import (
    DEFAULT_MODEL,
    SMALL,
    adapter_settings,
    base_model_name,
    check_image_processor,
    model_folder,
    pin_model,
)
from training.questions import open_questions, stage_settings
from training.recipes import load_recipe, recipe_for
from training.run_folder import (
    COLD_START,
    FINAL,
    check_folder,
    check_stage,
    hold_folder,
    record_stage,
    remove_unbegun,
)
from training.trl_config import check_tools, reward_weights
from training.turns import check_turns

if TYPE_CHECKING:
    from datagen.hub.publish import PublishTarget
    from datagen.task import DatasetSpec
    from training.launch.planner import LaunchPlan

Role = Literal["standalone", "launcher", "launched"]
"""What this process is: it trains alone, it starts the processes that train, or it is one of these."""


@dataclass(frozen=True)
class PreparedRun:
    """A run with everything checked that can be checked before a model is loaded.

    `stage` is the one asked for, `recipe` the name of its recipe. `plan` is where GRPO runs, and `reason` why; there is
    none where GRPO is not to be run, or another launcher than ours has decided. `target` is where to publish.
    """

    config: RunConfig
    stage: StageConfig
    recipe: str
    plan: LaunchPlan | None
    reason: str
    role: Role
    target: PublishTarget | None

    @property
    def final(self) -> Path:
        """The link to the last checkpoint."""
        return Path(self.stage.out) / FINAL

    @property
    def flags(self) -> list[str]:
        """What `r1vlm-eval` needs to know the dataset."""
        named = {"--task-file": self.config.task_file, "--env": self.config.env}
        return [word for flag, value in named.items() if value is not None for word in (flag, str(value))]

    @property
    def gpus(self) -> int:
        """How many GPUs this process may use, where it trains alone; a cold start takes one where there is one."""
        return 0 if self.config.hardware == "cpu" or (self.plan is not None and not self.plan.preset.gpus) else 1


def run(config: RunConfig, *, replace_process: bool = False) -> Path:
    """Train as configured, or go on with a run, then score what came out; returns `final`, a link to its checkpoint.

    The report is made by a process of its own. With `replace_process` that process takes the place of this one, whose
    GPU memory is free then: a command has nothing left to do. For several machines the plan is printed, and nothing is
    started. Where no step comes for `config.watchdog` minutes, the process ends. All but the first of several processes
    that train together end here, too.

    Raises:
        UserError: for what the user can fix.
        LaunchError: where a process that was started fails.
    """
    prepared = prepare(config)
    environment = dict(os.environ)  # for the report: no GPU is hidden from it
    if prepared.role != "launched":
        restrict_gpus(prepared.gpus)
    if prepared.role != "launcher" and prepared.plan is not None and prepared.plan.preset.gpus:
        check_torch()
    final, watchdog = prepared.final, 60 * config.watchdog
    with hold_folder(final.parent) if finishes_run() else nullcontext():  # else its launcher holds it
        stage = after_cold_start(prepared)
        if prepared.role == "launcher" and prepared.plan is not None:
            if not launch_plan(prepared.plan, prepared.reason, stage, watchdog):
                return final
        else:
            run_stage(stage, watchdog, preflight=config.preflight)
        if finishes_run():
            finish(prepared)
    leave_process_group()
    if stage.stage == "grpo" and config.report and prepared.role != "launched":
        report(final, stage.model, environment, prepared.flags, replace_process=replace_process)
    return final


def prepare(config: RunConfig) -> PreparedRun:
    """Check a run, and decide where it runs; says on what hardware.

    Raises:
        UserError: for every mistake that can be found without loading a model.
    """
    from datagen.dataset.reader import tasks_of
    from datagen.registry import find_task
    from datagen.task import reward_hash

    check_ranks()
    built = open_questions(config)
    tasks = tasks_of(built, config.task)
    out = writable_folder(config.out or Path("runs") / config.task)
    if is_main() and not has_plan():
        check_folder(out, config.resume)
    check_flags(config)
    require_extra("train", "torch", "transformers", "trl", "accelerate", "yaml", "matplotlib")
    model = pin_model(config.model or recipe_model(config.recipe) or default_model(config.hardware, built.spec))
    if config.env is not None and model in SMALL:
        raise UserError(
            f"{model} needs a cold start on traces, and a taskset has none: name a model with --model that answers "
            "without one"
        )
    recipe = config.recipe or recipe_for(model, built.spec)
    target = publish_target(config, tasks, model)
    kind: Stage = "cold_start" if config.cold_start else "grpo"
    check_stage(out, kind)
    stage = StageConfig(
        stage=kind,
        model=model,
        data=built.name,
        tasks=tasks,
        out=str(out),
        seed=config.seed,
        settings=stage_settings(config, recipe, kind, built),
        dataset_fingerprint=built.fingerprint,
        reward_hash={task: reward_hash(find_task(task)) for task in tasks},
    )
    role: Role = "launched" if is_launched() else "standalone"
    plan, reason = None, ""
    if kind == "grpo" and not (out / FINAL).exists() and (role == "standalone" or has_plan()):
        plan, reason = plan_of(config, built.spec, stage, recipe)
        stage = with_hardware(stage, plan)
        check_planned(stage, plan)
        check_adapter(stage, adapter_settings(model))
        if role == "standalone":
            check_plan(plan, reason, stage)
            role = "launcher" if plan.preset.launched else "standalone"
    check_torchvision()
    silence_libraries()
    if role != "launched":
        check_tools(stage)
        check_image_processor(model, stage.settings.get("image_processor") or {})
        check_disk(stage, plan, cold_start_stage(config, stage, recipe))
    return PreparedRun(config, stage, recipe, plan, reason, role, target)


def publish_target(config: RunConfig, tasks: list[str], model: str) -> PublishTarget | None:
    """Where the last checkpoint is to be published; None for nowhere.

    Raises:
        UserError: where nobody is logged in, the token can't write, or the name can't be.
    """
    if config.push is None:
        return None
    from datagen.hub.cards import model_repository
    from datagen.hub.publish import resolve_target

    return resolve_target(config.push, "model", model_repository(tasks, base_model_name(model)))


def after_cold_start(prepared: PreparedRun) -> StageConfig:
    """The stage asked for, after a cold start where it is GRPO of a built-in model, which has never seen the format."""
    stage, cold_start = prepared.stage, cold_start_stage(prepared.config, prepared.stage, prepared.recipe)
    if cold_start is None or cold_start is stage:
        return stage
    if prepared.role != "launcher" and not prepared.final.exists():  # TRL's rule on batches needs all processes
        from datagen.dataset.reader import open_dataset
        from training.trainers.curriculum import check_enough, first_untraced
        from training.trl_config import make_trl_config

        config = make_trl_config(stage)  # settings of GRPO that TRL refuses end here, before the cold start is trained
        questions = len(open_dataset(stage.data).questions("train", stage.tasks))
        check_enough(questions - first_untraced(questions, cold_start.settings["traces"]), config)
    return replace(stage, model=str(run_stage(cold_start, 60 * prepared.config.watchdog)))


def cold_start_stage(config: RunConfig, stage: StageConfig, recipe: str) -> StageConfig | None:
    """The cold start that comes before a stage, or that it is itself; None where there is none."""
    if stage.stage == "cold_start":
        return stage
    if stage.model not in SMALL:
        return None
    out = str(Path(stage.out) / COLD_START)
    return replace(stage, stage="cold_start", out=out, hardware={}, settings=settings_of(config, recipe, "cold_start"))


def finish(prepared: PreparedRun) -> None:
    """Say that a run is complete, and publish its last checkpoint where it is to be.

    Raises:
        UserError: where the checkpoint can't be published.
    """
    final = prepared.final
    print(f"{final}: trained; score it with  r1vlm-eval {shlex.join([str(final), *prepared.flags])}", flush=True)
    if prepared.target is not None:
        from training.trainers.checkpoints import publish_checkpoint

        print(publish_checkpoint(final, prepared.target), flush=True)


def check_flags(config: RunConfig) -> None:
    """Raise a `UserError` for what is GRPO's alone, where only a cold start is asked for."""
    if not config.cold_start:
        return
    for name in ("num_generations", "curriculum", "vllm", "eval_steps"):
        if getattr(config, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is GRPO's: leave it out with --cold-start")


def report(
    final: Path, model: str, environment: Mapping[str, str], flags: Sequence[str] = (), *, replace_process: bool
) -> None:
    """Score the model before and after GRPO on the test split with `r1vlm-eval`, and write the report.

    `flags` are further ones that it needs.

    Raises:
        UserError: where it fails, and this process is still there.
    """
    if importlib.util.find_spec("scipy") is None:
        print("for a report of before and after:  pip install 'r1vlm[eval]'")
        return
    words = [str(final), "--baseline", str(model_folder(model)), "--out", str(final.parent / "report"), "--report"]
    words += flags
    command = [sys.executable, "-P", "-m", "evaluation.cli", *words]  # -P: not the user's folder of that name
    sys.stdout.flush()
    if replace_process:
        os.execve(sys.executable, command, environment)  # noqa: S606 - there is no shell to fool
    free_gpu_memory()
    if code := subprocess.run(command, check=False, env=environment).returncode:
        raise UserError(f"the report ended with exit code {code}: repeat it with  r1vlm-eval {' '.join(words)}")


def free_gpu_memory() -> None:
    """Give back the GPU memory of trainers that are no longer used, where torch has been loaded."""
    gc.collect()  # a trainer is part of cycles
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def check_torch() -> None:
    """Raise a `UserError` where torch can't use the GPUs that are there: it would train on the CPU, and not say so."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "torch can't use the GPU that is there: see r1vlm-train --doctor, or train on the CPU with --hardware cpu"
        )


def plan_of(config: RunConfig, dataset: DatasetSpec, stage: StageConfig, recipe: str) -> tuple[LaunchPlan, str]:
    """The plan of a run of GRPO, and why it is this one.

    Raises:
        UserError: where a setting is refused, or no plan fits the hardware.
    """
    from training.config import resolve_settings
    from training.launch.launch_config import plan_for

    return plan_for(config, dataset, stage, resolve_settings(recipe, "grpo"))


def with_hardware(stage: StageConfig, plan: LaunchPlan) -> StageConfig:
    """The stage with what follows from its hardware."""
    from training.launch.launch_config import hardware_record

    return replace(stage, hardware=hardware_record(plan))


def check_planned(stage: StageConfig, plan: LaunchPlan) -> None:
    """Raise a `UserError` for tasks or settings of a stage, which has its hardware, that its plan makes impossible."""
    check_generation(stage)
    check_turns(stage.tasks, use_vllm=bool(plan.settings.get("use_vllm")), processes=plan.batch.processes)
    reward_weights(stage)


def check_plan(plan: LaunchPlan, reason: str, stage: StageConfig) -> None:
    """Check that a plan can be started here, and say what it is.

    Raises:
        UserError: where the hardware can't do it, or can't go on with what is in the run folder.
    """
    from training.launch.launch_config import check_move, check_resources

    if plan.preset.nodes == 1:
        check_resources(plan, visible_gpus())
    check_move(Path(stage.out), stage.hardware)
    print(f"hardware: {plan.preset.name} ({reason}): {plan.preset.summary}", flush=True)


def check_disk(stage: StageConfig, plan: LaunchPlan | None, cold_start: StageConfig | None) -> None:
    """Raise a `UserError` where the disk has no room for the checkpoints of the stages that are not complete."""
    from training.launch.launch_config import check_room, cold_start_room

    rooms = {} if plan is None or plan.preset.nodes > 1 else {Path(stage.out): plan.disk}
    if cold_start is not None and not (Path(cold_start.out) / FINAL).exists():
        rooms[Path(cold_start.out)] = cold_start_room(cold_start)
    check_room(rooms)


def launch_plan(plan: LaunchPlan, reason: str, stage: StageConfig, watchdog: float) -> bool:
    """Start the processes of a run and wait for their end; for several machines only print how to start them.

    Returns whether the run is complete.

    Raises:
        LaunchError: where a process fails, or no step comes within `watchdog` seconds.
    """
    from datagen.hub.checkpoint import check_checkpoint
    from training.launch.launch_config import print_plan, with_model
    from training.launch.launcher import launch

    plan = with_model(plan, stage.model)
    if plan.preset.generation != "transformers":
        check_checkpoint(Path(plan.request.model) if Path(plan.request.model).is_dir() else model_folder(stage.model))
    if plan.preset.nodes > 1:
        print_plan(plan, reason)
        return False
    launch(plan, watchdog=watchdog)
    return True


def dry_run(config: RunConfig) -> None:
    """Print what `run` would start; needs neither the dataset nor the weights of the recipes' models.

    Where the dataset is a folder that is here, its largest question counts.

    Raises:
        UserError: for what no plan can have, and where the memory does not suffice.
    """
    from datagen.registry import add_file, find_dataset_or_task
    from training.launch.launch_config import planned_model, print_plan

    if config.env is not None:
        raise UserError("--dry-run plans runs on r1vlm's own datasets: leave it out with --env")
    if config.cold_start:
        raise UserError("--dry-run plans GRPO: leave it out with --cold-start, which samples nothing")
    if config.task_file is not None:
        add_file(config.task_file)
    dataset = find_dataset_or_task(config.task)
    model = config.model or recipe_model(config.recipe) or planned_model(config.hardware, small_model(dataset))
    recipe = config.recipe or recipe_for(model, dataset)
    tasks = [task.name for task in dataset.tasks if config.task in (task.name, dataset.name)]
    stage = StageConfig(
        stage="grpo",
        model=model,
        data=config.data if config.data is not None and Path(config.data).is_dir() else "",
        tasks=tasks,
        out=str(config.out or Path("runs") / config.task),
        seed=config.seed,
        settings=settings_of(config, recipe, "grpo"),
        dataset_fingerprint="",
        reward_hash={},
    )
    plan, reason = plan_of(config, dataset, stage, recipe)
    check_planned(with_hardware(stage, plan), plan)
    print_plan(plan, reason)


def run_stage(stage: StageConfig, watchdog: float, *, preflight: bool = True) -> Path:
    """Run a stage, or go on with it; returns `final` in its folder, a link to the last checkpoint.

    The process ends where no step comes within `watchdog` seconds.

    Raises:
        UserError: where a setting is refused, the folder holds another run, or training meets what the user can fix; a
            folder in which nothing was begun is removed.
    """
    from training.launch.launcher import watched
    from training.trl_config import make_trl_config

    out = Path(stage.out)
    final = out / FINAL
    if not final.exists():
        make_trl_config(stage)  # settings that TRL refuses end here, before anything is written
    started_here = is_main() and record_stage(out, stage)
    if final.exists():
        if is_main():
            print(f"{final}: already trained, {final.resolve().name}")
        return final
    started = time.monotonic()
    if stage.stage == "grpo":
        from training.trainers import grpo
    else:
        from training.trainers import sft
    try:
        with watched(out, watchdog):
            last = grpo.train(stage, preflight=preflight) if stage.stage == "grpo" else sft.train(stage)
    except UserError:
        if started_here:
            remove_unbegun(out)
        raise
    if not is_main():
        return final
    final.unlink(missing_ok=True)  # to a checkpoint that was deleted
    final.symlink_to(last.name)
    print(f"{final}: {stage.stage.replace('_', ' ')}, {last.name}, {time.monotonic() - started:.0f} s")
    from training.callbacks.validation import BEST

    if (best := out / BEST).exists():
        print(f"{best}: the best on held-out questions, {best.resolve().name}")
    return final


def default_model(hardware: str, dataset: DatasetSpec) -> str:
    """Qwen2.5-VL-3B where there is a GPU to use, else the built-in model that can read what the dataset shows."""
    return DEFAULT_MODEL if hardware != "cpu" and visible_gpus() else small_model(dataset)


def recipe_model(name: str | None) -> str | None:
    """The model that a recipe is made for; None where it is made for none, or none is named.

    Raises:
        UserError: where there is no recipe of that name.
    """
    return load_recipe(name).get("model") if name is not None else None


def small_model(dataset: DatasetSpec) -> str:
    """The built-in model that can read what the dataset shows."""
    return "small-ciphers" if "wordfreq" in dataset.sources else "small"


def silence_libraries() -> None:
    """Leave the terminal to one progress bar: no bars for loading weights, no advice from libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()

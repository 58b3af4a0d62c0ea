"""What a run will start and need, before anything is started; `plan_rendering` puts it into words."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.hub.generation import FAMILIES
from datagen.interaction import question_images
from training.distributed import LAUNCHED
from training.launch.memory import SERVER_SHARE, USABLE, Disk, Memory, Shape, Workload, disk, gib, predict
from training.launch.presets import (
    AUTO,
    GPU,
    GROUP_PORT,
    PRESETS,
    SERVER,
    Batch,
    Generation,
    Preset,
    find_preset,
    fit_batch,
    rank_presets,
    trl_settings,
    with_generation,
)


@dataclass(frozen=True)
class Ports:
    """Where the processes of a run meet; TRL's, vLLM's and accelerate's defaults."""

    server: int = 8000
    group: int = 51216
    rendezvous: int = 29500


@dataclass(frozen=True)
class QuestionSize:
    """The size of a question: its largest image in pixels, text and solution in characters, and how many images."""

    width: int
    height: int
    prompt: int
    solution: int
    images: int = 1


@dataclass(frozen=True)
class PlanRequest:
    """What a command asks of the hardware: the model's shape, GRPO's settings, the largest question, and the command.

    `fixed` says that the user gave the batch, `completions` that a run that is resumed did. `words` are the arguments
    of r1vlm-train. `model` is what vLLM loads: a folder, or a name on the Hub.
    """

    model: str
    shape: Shape
    settings: dict[str, Any]
    question: QuestionSize
    words: list[str]
    out: Path
    fixed: bool = False
    completions: int | None = None


@dataclass(frozen=True)
class Machine:
    """What there is: the memory of a GPU in bytes (None: no GPU), the names of the GPUs, host memory, cores."""

    gpu: int | None
    devices: tuple[str, ...] = ()
    host: int | None = None
    cores: int = 8


@dataclass(frozen=True)
class Job:
    """A command of the plan, its environment, and the GPUs it has."""

    name: str
    command: list[str]
    environment: dict[str, str]
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchPlan:
    """A preset applied to a command. `settings` are those of TRL's GRPOConfig that follow from the hardware."""

    preset: Preset
    request: PlanRequest
    machine: Machine
    work: Workload
    memory: Memory
    disk: Disk
    ports: Ports
    settings: dict[str, Any]
    jobs: list[Job] = field(default_factory=list)

    @property
    def batch(self) -> Batch:
        """How a step's completions are spread."""
        return self.work.batch

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return self.memory.fits(self.machine.gpu, self.machine.host)


def largest_question(dataset: str, tasks: list[str], data: str = "") -> QuestionSize:
    """The largest of some questions of the dataset `data`; without it, of questions drawn with the default options.

    Of images of your own, which differ, it is the largest of all questions; without `data` they are taken to have a
    million pixels.

    Raises:
        UserError: where there is no such dataset, or `data` can't be read.
    """
    from PIL import Image

    from datagen.registry import find_dataset

    spec = find_dataset(dataset)
    all_sizes, all_prompts = set[tuple[tuple[int, int], ...]](), list[Any]()
    if data:
        from datagen.dataset.reader import image_sizes, open_dataset

        built = open_dataset(data)
        rows = built.first_questions(256)
        for split in ("train", "validation") if spec.draw is None else ():
            asked = built.questions(split)
            all_sizes |= image_sizes(asked)
            all_prompts += asked["prompt"]
    elif spec.draw is None:
        from datagen.dataset.importing.describe import judge_questions

        rows = judge_questions(spec)
    else:
        from datagen.dataset.config import DatasetConfig
        from datagen.dataset.shards import sample_questions

        drawn = sample_questions(DatasetConfig(dataset=dataset, size=1000, seed=0), 16)
        rows = [row for of_task in drawn.values() for row in of_task]
    rows = [row for row in rows if row["task"] in tasks] or rows  # a task may be rarer than that
    for row in rows:
        contents = [image["bytes"] for image in question_images(row)]
        all_sizes.add(tuple(Image.open(io.BytesIO(one)).size if one else (1000, 1000) for one in contents))
        all_prompts.append(row["prompt"])
    width, height = max((size for of_row in all_sizes for size in of_row), key=math.prod)
    return QuestionSize(
        width=width,
        height=height,
        prompt=max(sum(len(message["content"]) for message in prompt) for prompt in all_prompts),
        solution=max(len(row["solution"]) for row in rows),
        images=max(map(len, all_sizes)),
    )


def make_plan(request: PlanRequest, preset: Preset, machine: Machine, ports: Ports | None = None) -> LaunchPlan:
    """The plan of a command under a preset.

    Raises:
        UserError: where the batch can't be made to fit the number of processes, and for what FSDP2 can't do.
    """
    if preset.sharding == "fsdp2" and request.settings.get("lora"):
        raise UserError(  # vllm_generation.py merges adapters into weights that are split, and asks if that works
            f"TRL 1.16 sends no LoRA adapters to vLLM from FSDP2 ({preset.name}): use --hardware 4gpu-zero3"
        )
    if preset.sharding == "fsdp2" and request.settings.get("beta"):
        raise UserError(  # transformers loads weights in one process alone, and TRL's prepare_fsdp sends them to none
            f"TRL 1.16 gives all processes of FSDP2 but one a reference model of zeros ({preset.name}): "
            "use --hardware 4gpu-zero3, or set beta=0"
        )
    batch = fit_batch(request.settings, preset, fixed=request.fixed)
    if request.completions is not None and batch.completions != request.completions:
        batch = fit_batch(request.settings, preset, completions=request.completions)
    work = _work(request, batch)
    memory = predict(request.shape, work, preset, machine.gpu if preset.train_gpus else None)
    settings = trl_settings(preset, batch)
    if memory.vllm and machine.gpu is not None:
        settings["vllm_gpu_memory_utilization"] = min(memory.vllm, SERVER_SHARE)
    chosen = {"vllm_gpu_memory_utilization", "vllm_enable_sleep_mode"} & request.settings.keys()  # by the user
    settings = {name: value for name, value in settings.items() if name not in chosen}
    room = disk(request.shape, work, preset, request.settings)
    plan = LaunchPlan(preset, request, machine, work, memory, room, ports or Ports(), settings)
    return replace(plan, jobs=list(_jobs(plan)))


def _work(request: PlanRequest, batch: Batch) -> Workload:
    settings, question = request.settings, request.question
    images = settings.get("image_processor") or {}
    tiled = images.get("do_image_splitting", True)
    patches, image_tokens = request.shape.image(question.width, question.height, tiled=tiled)
    return Workload(
        batch=batch,
        # of the template, of 3 characters each, and of the images
        prompt_tokens=30 + math.ceil(question.prompt / 3) + question.images * image_tokens,
        completion_tokens=settings.get("max_completion_length") or 16 + math.ceil(question.solution / 2),
        patches=question.images * patches,
        bf16=bool(settings.get("bf16", True)),
        checkpointing=bool(settings.get("gradient_checkpointing", True)),
        reference=bool(settings.get("beta", 0.0)),
        synced=bool(settings.get("beta", 0.0)) and bool(settings.get("sync_ref_model", False)),
        shared=bool(settings.get("shared_prefix", True)) and request.shape.config.get("model_type") in FAMILIES,
        generations=settings.get("num_generations") or 8,
        **_trained_parts(settings),
    )


def _trained_parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a `Workload` says of the part of a model that is trained."""
    lora = settings.get("lora") or {}
    targets = str(lora.get("target_modules", ""))
    freeze_vision = bool(settings.get("freeze_vision", False))
    return {
        "freeze_vision": freeze_vision,
        "lora_rank": int(lora.get("r", 8)) if lora else 0,
        "lora_vision": not freeze_vision and ("visual" in targets or targets == "all-linear"),
    }


def cold_start_disk(shape: Shape, settings: Mapping[str, Any]) -> Disk:
    """What the checkpoints of a cold start take, which is trained by one process."""
    one = Workload(Batch(1, 1, 1), 0, 0, 0, **_trained_parts(settings))
    return disk(shape, one, PRESETS["cpu"], settings)


def choose_plan(
    request: PlanRequest,
    hardware: str,
    machine: Machine,
    gpus: list[GPU],
    *,
    nodes: int | None = None,
    generation: Generation | None = None,
    vllm: bool = True,
    deepspeed: bool = True,
) -> tuple[LaunchPlan, str]:
    """The plan for `--hardware`, and why it is this one.

    `generation` is how completions are sampled where the user said so; `vllm` and `deepspeed` whether they are
    installed.

    Raises:
        UserError: for an unknown preset, and for what it can't do.
    """
    if hardware != AUTO:
        preset = with_generation(find_preset(hardware, nodes), generation)
        return make_plan(request, preset, machine), "asked for"
    if gpus and not vllm and generation is None:
        generation = "transformers"
        request = replace(
            request, words=[*request.words, "--vllm", "off"]
        )  # what is launched must not decide otherwise
    machines = nodes or int(os.environ.get("SLURM_NNODES", "1"))
    presets, reason = rank_presets(gpus, machines, generation, deepspeed=deepspeed)
    if nodes is not None and presets[0].nodes == 1:
        raise UserError(f"--nodes is for multinode, and {reason}: plan for other machines with --hardware multinode")
    tried = possible_plans(request, presets, machine) or [
        make_plan(request, presets[0], machine)
    ]  # which says why it is not
    best = next((plan for plan in tried if plan.fits), tried[0])
    if gpus and not vllm:
        reason += "; without vLLM (pip install 'r1vlm[vllm]') the model itself generates"
    over = [plan.preset.name for plan in tried[: tried.index(best)]]
    return best, reason + (f", and {', '.join(over)} would need more memory" if over else "")


def check_fits(plan: LaunchPlan) -> None:
    """Raise a `UserError` where the memory does not suffice; it names what would do."""
    if plan.fits:
        return
    gpu, host, memory = plan.machine.gpu or 0, plan.machine.host, plan.memory
    model, name = plan.request.shape.name, plan.preset.name
    if host is not None and sum(memory.host.values()) > host:
        need = f"{gib(sum(memory.host.values()))} of host memory, and there are {gib(host)}"
        roomy = replace(plan.machine, host=host)
    else:
        need = f"{gib(memory.peak)} of each training GPU, and {gib(USABLE * gpu)} of {gib(gpu)} can be used"
        if sum(memory.server.values()) > SERVER_SHARE * gpu:
            need = f"{gib(sum(memory.server.values()))} of the GPU that generates, which has {gib(gpu)}"
        roomy = replace(plan.machine, host=None)
    larger = [preset for preset in PRESETS.values() if preset.train_gpus and preset.gpus >= plan.preset.gpus]
    others = possible_plans(plan.request, larger, replace(roomy, devices=()))
    do = [f"use --hardware {other.preset.name}" for other in others if other.fits][:1]
    lora = replace(plan.request, settings=plan.request.settings | {"lora": {"r": 16}})
    if not plan.work.lora_rank and any(other.fits for other in possible_plans(lora, [plan.preset], plan.machine)):
        do.append("train LoRA adapters (--set 'lora={r: 16}')")
    raise UserError(f"{model} on {name} needs {need}: {', or '.join(do) or 'use a smaller model'}")


def possible_plans(request: PlanRequest, presets: list[Preset], machine: Machine) -> list[LaunchPlan]:
    """The plans of those presets that can do what is requested, whether it fits or not."""
    plans = []
    for preset in presets:
        with contextlib.suppress(UserError):
            plans.append(make_plan(request, preset, machine))
    return plans


def _jobs(plan: LaunchPlan) -> Iterator[Job]:
    """The server, where there is one, and the trainer; none where r1vlm-train itself trains."""
    preset, machine, ports = plan.preset, plan.machine, plan.ports
    if not preset.launched:
        return
    many = preset.nodes > 1
    names = tuple(str(i) for i in range(preset.gpus))
    if not many and len(machine.devices) >= preset.gpus:  # those of other machines have other names
        names = machine.devices
    training = names[: preset.train_gpus]
    generating = names[: preset.generation_gpus] if many else names[preset.train_gpus :][: preset.generation_gpus]
    host = "$SERVER" if many else "127.0.0.1"
    environment = _environment(training) | {LAUNCHED: "1"}
    if preset.generation == "server":
        environment |= {SERVER: f"http://{host}:{ports.server}", GROUP_PORT: str(ports.group)}
        # the development endpoints are how TRL sends weights; the server listens on loopback, or inside the cluster
        serving = _environment(generating) | {"VLLM_SERVER_DEV_MODE": "1"}
        yield Job("server", _serve(plan, host), serving, generating)
    if preset.offload_optimizer:  # accelerate gives each process one thread, and the optimizer is stepped on the CPU
        environment["OMP_NUM_THREADS"] = str(max(1, machine.cores // preset.train_gpus))
    rendezvous = ["--main_process_port", str(ports.rendezvous)] if preset.processes > 1 else []
    machines = ["--num_machines", str(preset.train_nodes), "--machine_rank", "$RANK", "--main_process_ip", "$MAIN"]
    command = ["accelerate", "launch", "--config_file", str(preset.accelerate_file)]
    command += ["--num_processes", str(preset.processes), *(machines if many else []), *rendezvous]
    command += ["--mixed_precision", "bf16" if plan.work.bf16 else "no"]
    command += ["-m", "training.cli", *plan.request.words, "--hardware", preset.name]
    yield Job("trainer", command + (["--nodes", str(preset.nodes)] if many else []), environment, training)


def _environment(gpus: tuple[str, ...]) -> dict[str, str]:
    """What every job has: its GPUs, stacks where it crashes, and no import from the folder that it is started in."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PYTHONFAULTHANDLER": "1", "PYTHONSAFEPATH": "1"}


def _serve(plan: LaunchPlan, host: str) -> list[str]:
    """The server of vLLM with what TRL 1.16 asks of it (trl/generation/vllm_client.py, its errors name each flag).

    Weights come over NCCL; log-probabilities are those after temperature and masks, of any number of tokens; images are
    rendered apart from token ids, which vLLM 0.30 and later do behind --enable-scale-out.
    """
    model, _, revision = plan.request.model.partition("@")
    length = 1024 * math.ceil(2 * (plan.work.prompt_tokens + plan.work.completion_tokens) / 1024)
    command = ["vllm", "serve", model, *(["--revision", revision] if revision else [])]
    command += ["--host", host, "--port", str(plan.ports.server)]
    command += ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
    command += ["--max-logprobs", "-1", "--enable-scale-out", "--dtype", "bfloat16" if plan.work.bf16 else "float32"]
    command += ["--max-model-len", str(max(4096, length)), "--gpu-memory-utilization", str(SERVER_SHARE)]
    command += ["--limit-mm-per-prompt", json.dumps({"image": plan.request.question.images, "video": 0})]
    if images := plan.request.settings.get("image_processor"):
        command += ["--mm-processor-kwargs", json.dumps(images)]
    replicas = plan.preset.generation_gpus
    return command + (["--data-parallel-size", str(replicas)] if replicas > 1 else [])

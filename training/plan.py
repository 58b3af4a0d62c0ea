"""What a run will start and need, before anything is started: `r1vlm-train --dry-run` prints it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datagen.errors import UserError
from training.hardware import (
    AUTO,
    GPU,
    GROUP_PORT,
    PRESETS,
    SERVER,
    Batch,
    Generation,
    Preset,
    choose,
    find_preset,
    fit,
    settings_of,
)
from training.memory import GIB, SERVER_SHARE, USABLE, Memory, Parts, Shape, Work, predict
from training.rank import LAUNCHED

HEADS = {"server": "generates", "trainer": "trains, once the server answers"}


@dataclass(frozen=True)
class Ports:
    """Where the processes of a run meet; TRL's, vLLM's and accelerate's defaults."""

    server: int = 8000
    group: int = 51216
    rendezvous: int = 29500


@dataclass(frozen=True)
class Question:
    """The size of a question: its image in pixels, its text and its solution in characters."""

    width: int
    height: int
    prompt: int
    solution: int


@dataclass(frozen=True)
class Asked:
    """What a command asks of the hardware: the model's shape, GRPO's settings, the largest question, and the command.

    `fixed` says that the user gave the batch, `completions` that a run that is resumed did. `words` are the arguments
    of r1vlm-train. `model` is what vLLM loads: a folder, or a name on the Hub.
    """

    model: str
    shape: Shape
    settings: dict[str, Any]
    question: Question
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
class Plan:
    """A preset applied to a command. `settings` are those of TRL's GRPOConfig that follow from the hardware."""

    preset: Preset
    asked: Asked
    machine: Machine
    work: Work
    memory: Memory
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


def largest_question(dataset: str, tasks: list[str]) -> Question:
    """The largest of some questions of a dataset, drawn with its default options."""
    from PIL import Image

    from datagen.recipe import make_recipe
    from datagen.rows import sample

    drawn = sample(make_recipe(dataset, size=1000, seed=0), 16)
    rows = [row for task, rows in drawn.items() if task in tasks for row in rows]
    sizes = [Image.open(io.BytesIO(row["image"]["bytes"])).size for row in rows]
    return Question(
        width=max(width for width, _ in sizes),
        height=max(height for _, height in sizes),
        prompt=max(sum(len(message["content"]) for message in row["prompt"]) for row in rows),
        solution=max(len(row["solution"]) for row in rows),
    )


def make_plan(asked: Asked, preset: Preset, machine: Machine, ports: Ports | None = None) -> Plan:
    """The plan of a command under a preset.

    Raises:
        UserError: where the batch can't be made to fit the number of processes, and for LoRA under FSDP2.
    """
    if preset.sharding == "fsdp2" and asked.settings.get("lora"):
        raise UserError(  # vllm_generation.py merges adapters into weights that are split, and asks if that works
            f"TRL 1.16 sends no LoRA adapters to vLLM from FSDP2 ({preset.name}): use --hardware 4gpu-zero3"
        )
    batch = fit(asked.settings, preset, asked=asked.fixed)
    if asked.completions is not None and batch.completions != asked.completions:
        batch = fit(asked.settings, preset, completions=asked.completions)
    work = _work(asked, batch)
    memory = predict(asked.shape, work, preset, machine.gpu if preset.train_gpus else None)
    settings = settings_of(preset, batch)
    if memory.vllm and machine.gpu is not None:
        settings["vllm_gpu_memory_utilization"] = min(memory.vllm, SERVER_SHARE)
    plan = Plan(preset, asked, machine, work, memory, ports or Ports(), settings)
    return replace(plan, jobs=list(_jobs(plan)))


def _work(asked: Asked, batch: Batch) -> Work:
    settings, question = asked.settings, asked.question
    images = settings.get("image_processor") or {}
    tiled = images.get("do_image_splitting", True)
    patches, image_tokens = asked.shape.image(question.width, question.height, tiled=tiled)
    lora = settings.get("lora") or {}
    targets = str(lora.get("target_modules", ""))
    return Work(
        batch=batch,
        prompt_tokens=30 + math.ceil(question.prompt / 3) + image_tokens,  # the template, and 3 characters a token
        completion_tokens=settings.get("max_completion_length") or 16 + math.ceil(question.solution / 2),
        patches=patches,
        bf16=bool(settings.get("bf16", True)),
        checkpointing=bool(settings.get("gradient_checkpointing", True)),
        reference=bool(settings.get("beta", 0.0)),
        freeze_vision=bool(settings.get("freeze_vision", False)),
        lora_rank=int(lora.get("r", 8)) if lora else 0,
        lora_vision="visual" in targets or targets == "all-linear",
    )


def decide(
    asked: Asked,
    hardware: str,
    machine: Machine,
    gpus: list[GPU],
    *,
    nodes: int | None = None,
    generation: Generation | None = None,
    vllm: bool = True,
) -> tuple[Plan, str]:
    """The plan for `--hardware`, and why it is this one.

    `generation` is how completions are sampled where the user said so; `vllm` whether vLLM is installed.

    Raises:
        UserError: for an unknown preset, and for a batch that its processes can't share.
    """
    if hardware != AUTO:
        preset = _generating(find_preset(hardware, nodes), generation)
        return make_plan(asked, preset, machine), "asked for"
    allocation = nodes or int(os.environ.get("SLURM_NNODES", "1"))
    names, why = choose(gpus, allocation, vllm=vllm)
    presets = [find_preset(name, allocation if PRESETS[name].nodes > 1 else None) for name in names]
    if not vllm:
        generation = generation or "transformers"
    first, *others = [_generating(preset, generation) for preset in presets]
    tried = [make_plan(asked, first, machine), *_possible(asked, others, machine)]
    for plan in tried:
        if plan.fits:
            over = [other.preset.name for other in tried[: tried.index(plan)]]
            return plan, why + (f", and {', '.join(over)} would need more memory" if over else "")
    return tried[0], why


def _generating(preset: Preset, generation: Generation | None) -> Preset:
    """The preset with another way to sample completions, where one was named."""
    if generation is None or generation == preset.generation:
        return preset
    if preset.generation == "server" or generation == "server":
        served = generation == "server"
        possible = [name for name, other in PRESETS.items() if (other.generation == "server") == served]
        raise UserError(f"{preset.name} can't generate with {generation}: use --hardware {' or '.join(possible)}")
    return replace(preset, generation=generation)


def refuse(plan: Plan) -> None:
    """Raise a `UserError` where the memory does not suffice; it names what would do."""
    if plan.fits:
        return
    gpu, host, memory = plan.machine.gpu or 0, plan.machine.host, plan.memory
    model, name = plan.asked.shape.name, plan.preset.name
    if host is not None and sum(memory.host.values()) > host:
        need = f"{_gib(sum(memory.host.values()))} of host memory, and there are {_gib(host)}"
        roomy = replace(plan.machine, host=host)
    else:
        need = f"{_gib(memory.peak)} of each training GPU, and {_gib(USABLE * gpu)} of {_gib(gpu)} can be used"
        if sum(memory.server.values()) > SERVER_SHARE * gpu:
            need = f"{_gib(sum(memory.server.values()))} of the GPU that generates, which has {_gib(gpu)}"
        roomy = replace(plan.machine, host=None)
    larger = [preset for preset in PRESETS.values() if preset.train_gpus and preset.gpus >= plan.preset.gpus]
    others = _possible(plan.asked, larger, replace(roomy, devices=()))
    do = [f"use --hardware {other.preset.name}" for other in others if other.fits][:1]
    lora = replace(plan.asked, settings=plan.asked.settings | {"lora": {"r": 16}})
    if not plan.work.lora_rank and any(other.fits for other in _possible(lora, [plan.preset], plan.machine)):
        do.append("train LoRA adapters (--set 'lora={r: 16}')")
    raise UserError(f"{model} on {name} needs {need}: {', or '.join(do) or 'use a smaller model'}")


def _possible(asked: Asked, presets: list[Preset], machine: Machine) -> list[Plan]:
    """The plans of those presets that can do what is asked, whether it fits or not."""
    plans = []
    for preset in presets:
        with contextlib.suppress(UserError):
            plans.append(make_plan(asked, preset, machine))
    return plans


def _jobs(plan: Plan) -> Iterator[Job]:
    """The server, where there is one, and the trainer; none where r1vlm-train itself trains."""
    preset, machine, ports = plan.preset, plan.machine, plan.ports
    if not preset.launched:
        return
    many = preset.nodes > 1
    names = machine.devices or tuple(str(i) for i in range(preset.gpus))
    training = names[: preset.train_gpus]
    generating = names[: preset.generation_gpus] if many else names[preset.train_gpus :][: preset.generation_gpus]
    host = "$SERVER" if many else "127.0.0.1"
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(training), LAUNCHED: "1", "PYTHONFAULTHANDLER": "1"}
    if preset.generation == "server":
        environment |= {SERVER: f"http://{host}:{ports.server}", GROUP_PORT: str(ports.group)}
        yield Job("server", _serve(plan, host), _server_environment(generating), generating)
    if preset.offload_optimizer:  # accelerate gives each process one thread, and the optimizer is stepped on the CPU
        environment["OMP_NUM_THREADS"] = str(max(1, machine.cores // preset.train_gpus))
    rendezvous = ["--main_process_port", str(ports.rendezvous)] if preset.processes > 1 else []
    machines = ["--num_machines", str(preset.train_nodes), "--machine_rank", "$RANK", "--main_process_ip", "$MAIN"]
    command = ["accelerate", "launch", "--config_file", str(preset.accelerate_file)]
    command += ["--num_processes", str(preset.processes), *(machines if many else []), *rendezvous]
    command += ["-m", "training.cli", *plan.asked.words, "--hardware", preset.name]
    yield Job("trainer", command + (["--nodes", str(preset.nodes)] if many else []), environment, training)


def _server_environment(gpus: tuple[str, ...]) -> dict[str, str]:
    # the development endpoints are how TRL sends weights; the server listens on loopback, or inside the cluster
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "VLLM_SERVER_DEV_MODE": "1", "PYTHONFAULTHANDLER": "1"}


def _serve(plan: Plan, host: str) -> list[str]:
    """The server of vLLM with what TRL 1.16 asks of it (trl/generation/vllm_client.py, its errors name each flag).

    Weights come over NCCL; log-probabilities are those after temperature and masks, of any number of tokens; images are
    rendered apart from token ids, which vLLM 0.30 and later do behind --enable-scale-out.
    """
    model, _, revision = plan.asked.model.partition("@")
    length = 1024 * math.ceil(2 * (plan.work.prompt_tokens + plan.work.completion_tokens) / 1024)
    command = ["vllm", "serve", model, *(["--revision", revision] if revision else [])]
    command += ["--host", host, "--port", str(plan.ports.server)]
    command += ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
    command += ["--max-logprobs", "-1", "--enable-scale-out", "--dtype", "bfloat16" if plan.work.bf16 else "float32"]
    command += ["--max-model-len", str(max(4096, length)), "--gpu-memory-utilization", str(SERVER_SHARE)]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    if images := plan.asked.settings.get("image_processor"):
        command += ["--mm-processor-kwargs", json.dumps(images)]
    replicas = plan.preset.generation_gpus
    return command + (["--data-parallel-size", str(replicas)] if replicas > 1 else [])


def describe(plan: Plan, why: str) -> str:
    """The plan in words: what each GPU does, the memory it takes, and every command with its environment."""
    preset, batch = plan.preset, plan.batch
    generations = plan.asked.settings.get("num_generations") or 8
    trained = f"LoRA of rank {plan.work.lora_rank}" if plan.work.lora_rank else "all weights"
    if plan.work.freeze_vision and not plan.work.lora_rank:
        trained = "all weights but the vision tower's"
    lines = [
        f"{plan.asked.shape.name}, {trained} ({plan.asked.shape.parameters / 1e6:,.1f} million parameters)",
        f"hardware: {preset.name} ({why}): {preset.summary}",
        f"a step: {batch.completions} completions of {batch.completions // generations} questions = {batch.processes} "
        f"process{'es' if batch.processes > 1 else ''} x {batch.per_device} at a time x {batch.accumulation}",
        "",
        *_gpus(plan),
        "",
        *_table(plan),
    ]
    if not plan.jobs:
        command = f"r1vlm-train {shlex.join(plan.asked.words)} --hardware {preset.name}"
        lines += ["", "# trains, in this process", command]
    for job in plan.jobs:
        log = plan.asked.out / "logs" / f"{job.name}.log"
        lines += ["", f"# {_where(job, preset)}{HEADS[job.name]}; its log is {log}", shell(job)]
    if preset.nodes > 1:
        lines += ["", f"# all of it, as a job of Slurm:  sbatch {script_path(plan)}"]
    return "\n".join(lines)


def _where(job: Job, preset: Preset) -> str:
    if preset.nodes == 1:
        return ""
    if job.name == "server":
        return "on the first machine, whose name is $SERVER: "
    return f"on each of the other {preset.train_nodes}, $RANK from 0, $MAIN the first of them: "


def shell(job: Job) -> str:
    """A job as a line for a shell; its variables are the shell's."""
    variables = [f"{name}={_quoted(value)}" for name, value in job.environment.items()]
    return " ".join(variables) + " \\\n" + " ".join(map(_quoted, job.command))


def _quoted(word: str) -> str:
    return f'"{word}"' if "$" in word else shlex.quote(word)


def _gpus(plan: Plan) -> list[str]:
    """A line for every kind of GPU: what it does, and how much of its memory it takes."""
    preset, memory, gpu = plan.preset, plan.memory, plan.machine.gpu
    if gpu is None or not preset.train_gpus:
        return [f"CPU: trains and generates, {_gib(sum(memory.host.values()))} of host memory"]
    what = "train and generate in turn" if preset.generation != "server" else "train"
    prefix = f"{preset.train_nodes} machines, " if preset.nodes > 1 else ""
    lines = [f"{prefix}GPU {_range(0, preset.train_gpus)}: {what}, {_gib(memory.peak)} of {_gib(gpu)}"]
    if preset.generation == "server":
        first = 0 if preset.nodes > 1 else preset.train_gpus
        cache = SERVER_SHARE * gpu - sum(memory.server.values())
        each = (plan.work.prompt_tokens + plan.work.completion_tokens) * plan.asked.shape.kv_bytes
        where = "1 machine, " if preset.nodes > 1 else ""
        lines.append(
            f"{where}GPU {_range(first, preset.generation_gpus)}: generate (vLLM), {_gib(SERVER_SHARE * gpu)} of "
            f"{_gib(gpu)}, with a KV cache for {max(0, int(cache // each)):,} completions at once on each"
        )
    return lines


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _table(plan: Plan) -> list[str]:
    """The parts of the memory, in GiB."""
    memory = plan.memory
    lines = []
    if memory.step:
        names = list(dict.fromkeys([*memory.step, *memory.sampling]))
        lines += [f"{'a training GPU, GiB':<32}{'in a step':>12}{'sampling':>12}"]
        lines += [f"  {name:<30}{_number(memory.step, name):>12}{_number(memory.sampling, name):>12}" for name in names]
        totals = [f"{sum(parts.values()) / GIB:.1f}" for parts in (memory.step, memory.sampling)]
        lines += [f"  {'together':<30}{totals[0]:>12}{totals[1]:>12}"]
    if memory.server:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.server.items())
        lines.append(f"the GPU that generates, GiB: {parts}, and the rest of {SERVER_SHARE:.0%} is KV cache")
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.host.items())
    return [*lines, f"host, GiB: {parts}, together {sum(memory.host.values()) / GIB:.1f}"]


def _number(parts: Parts, name: str) -> str:
    return f"{parts[name] / GIB:.1f}" if name in parts else "-"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size < 10 * GIB else f"{size / GIB:.0f} GiB"


def script_path(plan: Plan) -> Path:
    """Where the Slurm script of a plan is written: beside the run folder."""
    return plan.asked.out.with_name(plan.asked.out.name + ".slurm")


def slurm(plan: Plan) -> str:
    """The plan of several machines as a job of Slurm: one task a machine, the first of which generates."""
    preset = plan.preset
    server, trainer = plan.jobs
    address = f"http://$SERVER:{plan.ports.server}/health"
    logs = plan.asked.out / "logs"
    train = shell(trainer).replace("$RANK", "$SLURM_PROCID")
    return f"""\
#!/bin/bash
#SBATCH --job-name={plan.asked.out.name}
#SBATCH --nodes={preset.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={preset.gpus}
#SBATCH --exclusive
#SBATCH --output={plan.asked.out}.slurm.log
# {preset.summary}. The run folder must be one that all machines see.
# Sent again after an end of any kind, it goes on from the last checkpoint.
set -euo pipefail
mapfile -t MACHINES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export SERVER=${{MACHINES[0]}} MAIN=${{MACHINES[1]}}
TRAINERS=$(IFS=,; echo "${{MACHINES[*]:1}}")
mkdir -p {shlex.quote(str(logs))}

srun --nodes=1 --ntasks=1 --nodelist="$SERVER" \\
    --open-mode=append --output={shlex.quote(str(logs / "server.log"))} bash -c '
{_inner(shell(server))}' &
GENERATING=$!
trap 'kill "$GENERATING" 2>/dev/null || true' EXIT
until curl --silent --fail --output /dev/null "{address}"; do
    kill -0 "$GENERATING" || {{ echo "vLLM ended: see {logs / "server.log"}" >&2; exit 1; }}
    sleep 5
done

srun --nodes={preset.train_nodes} --ntasks={preset.train_nodes} --nodelist="$TRAINERS" --kill-on-bad-exit=1 \\
    --open-mode=append --output={shlex.quote(str(logs / "trainer.log"))} bash -c '
{_inner(train)}'
"""


def _inner(command: str) -> str:
    """A command inside single quotes."""
    return command.replace("'", "'\\''")


def presets_table(model: str, sizes: tuple[int, ...] = (24, 40, 80)) -> str:
    """A Markdown table: what each preset takes of a training GPU for a model, and on which GPUs (in GiB) that fits.

    For all weights and for LoRA of rank 16, with the default recipe on digits.
    """
    from training.config import settings_for
    from training.memory import built_in

    recipe = settings_for("default", "grpo", None, {}, [])
    question = largest_question("digits", ["list", "sum"])
    lines = ["| preset | what it does | all weights | LoRA | host |", "|---|---|---:|---:|---:|"]
    for preset in PRESETS.values():
        if not preset.train_gpus:
            continue
        cells, hosts = [], [0.0]
        for lora in ({}, {"lora": {"r": 16}}):
            asked = Asked(model, built_in()[model], recipe | lora, question, [], Path("runs"))
            plans = [plan for size in sizes for plan in _possible(asked, [preset], Machine(size * GIB))]
            fitting = [size for size, plan in zip(sizes, plans, strict=False) if plan.fits]
            hosts += [sum(plan.memory.host.values()) for plan in plans]
            cells.append(f"{plans[-1].memory.peak / GIB:.0f} (from {fitting[0]})" if fitting else "-")
        lines.append(f"| `{preset.name}` | {preset.summary} | {cells[0]} | {cells[1]} | {max(hosts) / GIB:.0f} |")
    return "\n".join(lines)

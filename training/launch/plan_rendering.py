"""A plan in words: what `r1vlm-train --dry-run` prints, commands for a shell, a script for Slurm, README's table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from training.launch.memory import GIB, SERVER_SHARE, Parts, gib
from training.launch.planner import Job, LaunchPlan, Machine, PlanRequest, largest_question, possible_plans
from training.launch.presets import PRESETS, Preset

PLAN_VARIABLE = re.compile(r"(http://)?\$(SERVER|RANK|MAIN)(:\d+)?")  # set by the shell


def render_plan(plan: LaunchPlan, reason: str) -> str:
    """The plan in words: what each GPU does, the memory it takes, and every command with its environment."""
    preset, batch = plan.preset, plan.batch
    generations = plan.request.settings.get("num_generations") or 8
    trained = f"LoRA of rank {plan.work.lora_rank}" if plan.work.lora_rank else "all weights"
    if plan.work.freeze_vision and not plan.work.lora_rank:
        trained = "all weights but the vision tower's"
    lines = [
        f"{plan.request.shape.name}, {trained} ({plan.request.shape.parameters / 1e6:,.1f} million parameters)",
        f"hardware: {preset.name} ({reason}): {preset.summary}",
        f"a step: {batch.completions} completions of {batch.completions // generations} questions = {batch.processes} "
        f"process{'es' if batch.processes > 1 else ''} x {batch.per_device} at a time x {batch.accumulation}",
        "",
        *_gpus(plan),
        "",
        *_table(plan),
        f"disk: a checkpoint takes {gib(plan.disk.checkpoint)}, and there are up to {plan.disk.most:g} at a time",
    ]
    if not plan.jobs:
        command = f"r1vlm-train {shlex.join(plan.request.words)} --hardware {preset.name}"
        lines += ["", "# trains, in this process", command]
    for job in plan.jobs:
        log = plan.request.out / "logs" / f"{job.name}.log"
        lines += ["", f"# {_machine(job, preset)}{_task(job, preset)}; its log is {log}", shell(job)]
    if preset.nodes > 1:
        lines += ["", f"# all of it, as a job of Slurm:  sbatch {shlex.quote(str(script_path(plan)))}"]
    return "\n".join(lines)


def _task(job: Job, preset: Preset) -> str:
    if job.name == "server":
        return "generates"
    return "trains, once the server answers" if preset.generation == "server" else "trains and generates"


def _machine(job: Job, preset: Preset) -> str:
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
    return f'"{word}"' if PLAN_VARIABLE.fullmatch(word) else shlex.quote(word)


def _gpus(plan: LaunchPlan) -> list[str]:
    """A line for every kind of GPU: what it does, and how much of its memory it takes."""
    preset, memory, gpu = plan.preset, plan.memory, plan.machine.gpu
    if gpu is None or not preset.train_gpus:
        return [f"CPU: trains and generates, {gib(sum(memory.host.values()))} of host memory"]
    work = "train and generate in turn" if preset.generation != "server" else "train"
    prefix = f"{preset.train_nodes} machines, " if preset.nodes > 1 else ""
    lines = [f"{prefix}GPU {_range(0, preset.train_gpus)}: {work}, {gib(memory.peak)} of {gib(gpu)}"]
    if preset.generation == "server":
        first = 0 if preset.nodes > 1 else preset.train_gpus
        cache = SERVER_SHARE * gpu - sum(memory.server.values())
        each = (plan.work.prompt_tokens + plan.work.completion_tokens) * plan.request.shape.kv_bytes
        machine = "1 machine, " if preset.nodes > 1 else ""
        lines.append(
            f"{machine}GPU {_range(first, preset.generation_gpus)}: generate (vLLM), {gib(SERVER_SHARE * gpu)} of "
            f"{gib(gpu)}, with a KV cache for {max(0, int(cache // each)):,} completions at once on each"
        )
    return lines


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _table(plan: LaunchPlan) -> list[str]:
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


def script_path(plan: LaunchPlan) -> Path:
    """Where the Slurm script of a plan is written: beside the run folder."""
    return plan.request.out.with_name(plan.request.out.name + ".slurm")


def slurm_script(plan: LaunchPlan) -> str:
    """The plan of several machines as a job of Slurm: one task a machine, the first of which generates."""
    preset = plan.preset
    server, trainer = plan.jobs
    address = f"http://$SERVER:{plan.ports.server}/health"
    logs = plan.request.out / "logs"
    train = shell(trainer).replace('"$RANK"', '"$SLURM_PROCID"')
    return f"""\
#!/bin/bash
#SBATCH --job-name={shlex.quote(plan.request.out.name)}
#SBATCH --nodes={preset.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={preset.gpus}
#SBATCH --exclusive
#SBATCH --output={shlex.quote(f"{plan.request.out}.slurm.log")}
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
    kill -0 "$GENERATING" || {{ echo {shlex.quote(f"vLLM ended: see {logs / 'server.log'}")} >&2; exit 1; }}
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

    Raises:
        UserError: where there is no such model.
    """
    from training.config import resolve_settings
    from training.launch.memory import built_in

    recipe = resolve_settings("default", "grpo")
    question = largest_question("digits", ["list", "sum"])
    lines = ["| preset | what it does | all weights | LoRA | host |", "|---|---|---:|---:|---:|"]
    for preset in PRESETS.values():
        if not preset.train_gpus:
            continue
        cells, hosts = [], [0.0]
        for lora in ({}, {"lora": {"r": 16}}):
            request = PlanRequest(model, built_in()[model], recipe | lora, question, [], Path("runs"))
            plans = [plan for size in sizes for plan in possible_plans(request, [preset], Machine(size * GIB))]
            fitting = [size for size, plan in zip(sizes, plans, strict=False) if plan.fits]
            hosts += [sum(plan.memory.host.values()) for plan in plans]
            cells.append(f"{plans[-1].memory.peak / GIB:.0f} (from {fitting[0]})" if fitting else "-")
        lines.append(f"| `{preset.name}` | {preset.summary} | {cells[0]} | {cells[1]} | {max(hosts) / GIB:.0f} |")
    return "\n".join(lines)

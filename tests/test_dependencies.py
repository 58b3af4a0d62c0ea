"""Nothing heavy is loaded where it is not needed, and nothing undeclared; floors are checked by `make lint`.

`make test-install` tries what is declared: in its newest and its oldest versions, without what happens to be here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

HEAVY = ("pydantic", "torch", "transformers", "trl", "verifiers", "vllm", "datasets", "pandas", "matplotlib", "scipy")
LIGHT = ["datagen.registry", "datagen.cli", "datagen, training, evaluation", "training.cli", "evaluation.cli"]


@pytest.mark.parametrize("modules", LIGHT)
def test_nothing_heavy_is_loaded(modules: str) -> None:
    code = f"import sys, {modules}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_all_of_datagen_is_imported_without_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, datagen\n"
        "sys.modules |= dict.fromkeys(['torch', 'transformers', 'trl'])\n"  # None: an import of it is an error
        "for module in pkgutil.walk_packages(datagen.__path__, 'datagen.'):\n"
        "    importlib.import_module(module.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("datagen", "training", "evaluation")


def declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml names for everybody and for some extras."""
    named = [*PROJECT["dependencies"], *(one for extra in extras for one in PROJECT["optional-dependencies"][extra])]
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in named}


def imported(path: Path) -> set[str]:
    """The packages that a file of ours imports anywhere in it, without the standard library's and ours."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, *OURS}


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("datagen", ("train", "ray", "inspect", "verifiers")),
        ("training", ("train", "vllm")),
        ("evaluation", ("eval", "vllm", "demo")),
    ],
)
def test_what_is_imported_is_declared(package: str, extras: tuple[str, ...]) -> None:
    distributions = packages_distributions()
    undeclared = {
        f"{name} in {path.relative_to(ROOT)}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path) - {"wandb"}  # which a user has who names it as a tracker
        if not declared(*extras) & {one.lower().replace("_", "-") for one in distributions.get(name, [name])}
    }
    assert undeclared == set()

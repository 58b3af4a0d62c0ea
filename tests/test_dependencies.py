"""The one rule of dependence: datagen <- training, datagen <- evaluation, and nothing heavy where it is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "datagen": {"training", "evaluation", "torch", "transformers", "trl", "vllm"},
    "training": {"evaluation"},
    "evaluation": {"training", "trl"},
}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in FORBIDDEN[package], f"{path} imports {name}"


@pytest.mark.parametrize("module", ["datagen.tasks", "datagen.cli", "training.cli", "evaluation.cli"])
def test_nothing_heavy_is_loaded(module: str) -> None:
    heavy = ("torch", "transformers", "trl", "vllm", "datasets", "pandas", "matplotlib", "scipy")
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == []

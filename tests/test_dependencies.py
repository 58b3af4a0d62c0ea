"""Nothing heavy is loaded where it is not needed; what may import what is checked by `make lint`."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "pandas", "matplotlib", "scipy")
LIGHT = ["datagen.registry", "datagen.cli", "datagen, training, evaluation", "training.cli", "evaluation.cli"]


@pytest.mark.parametrize("modules", LIGHT)
def test_nothing_heavy_is_loaded(modules: str) -> None:
    code = f"import sys, {modules}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []

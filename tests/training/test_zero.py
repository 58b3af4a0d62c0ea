"""Two processes under DeepSpeed ZeRO (gloo, our accelerate files) take the same steps as one on the same batch.

DeepSpeed's CPU accelerator compiles its operators at the first start, which takes up to two minutes.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_processes import (
    PLAIN,
    SPLIT,
    STEPS,
    SYNCED,
    check_same_metrics,
    check_same_weights,
    started,
    trained,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed installs it"
)


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, digits_folder: Path, random_checkpoint: Path
) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, trained(1, out, digits_folder, random_checkpoint, *SYNCED)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero2-offload"])
def test_zero_takes_the_steps_of_one_process_and_goes_on(
    name: str,
    alone: tuple[Path, list[dict[str, Any]]],
    digits_folder: Path,
    random_checkpoint: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    asked, start = (2, out, digits_folder, random_checkpoint), started(name, tmp_path)
    check_like(trained(*asked, *SYNCED, start=start), out, alone)
    (out / "final").unlink()
    shutil.rmtree(out / f"checkpoint-{STEPS}")  # as if it had been killed in its last step
    check_like(trained(*asked, *SYNCED, "--resume", start=start), out, alone)


def test_a_group_that_is_split_over_the_processes_takes_the_steps_of_trls_path(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """Each process has half of the one group, and computes image and prompt once for it."""
    one = trained(1, tmp_path / "1", digits_folder, random_checkpoint, *SPLIT, *PLAIN)
    two = trained(2, tmp_path / "2", digits_folder, random_checkpoint, *SPLIT, start=started("zero2", tmp_path))
    check_same_metrics(two, one)
    check_same_weights(tmp_path / "2", tmp_path / "1")


def check_like(rows: list[dict[str, Any]], out: Path, alone: tuple[Path, list[dict[str, Any]]]) -> None:
    check_same_metrics(rows, alone[1])
    assert [row["kl"] for row in rows] == pytest.approx([row["kl"] for row in alone[1]], rel=1e-3)
    check_same_weights(out, alone[0])
    assert json.loads((out / "final" / "r1vlm.json").read_text())["stage"] == "grpo"

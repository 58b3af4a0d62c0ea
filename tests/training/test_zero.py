"""Two processes under DeepSpeed ZeRO (gloo, our accelerate files) take the same steps as one on the same batch.

DeepSpeed's CPU accelerator compiles its operators at the first start, which takes up to two minutes.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_processes import STEPS, SYNCED, check_same_metrics, check_same_weights, trained

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed installs it"
)
FILES = Path(__file__).parents[2] / "training" / "launch" / "accelerate"


def started(name: str, folder: Path) -> list[str]:
    """How two processes are started with one of our accelerate files, changed to a CPU.

    In the file: accelerate 1.15's `--cpu` makes it one process.
    """
    text = (FILES / f"{name}.yaml").read_text()
    assert "use_cpu: false" in text
    (folder / "accelerate.yaml").write_text(text.replace("use_cpu: false", "use_cpu: true"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    return [*launch, "--mixed_precision", "no", "--num_processes", "2", "-m"]


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


def check_like(rows: list[dict[str, Any]], out: Path, alone: tuple[Path, list[dict[str, Any]]]) -> None:
    check_same_metrics(rows, alone[1])
    assert [row["kl"] for row in rows] == pytest.approx([row["kl"] for row in alone[1]], rel=1e-3)
    check_same_weights(out, alone[0])
    assert json.loads((out / "final" / "r1vlm.json").read_text())["stage"] == "grpo"

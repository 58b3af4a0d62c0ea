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
import torch
from safetensors.torch import load_file

from tests.training.test_processes import STEPS, trained

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-deepspeed installs it"
)
FILES = Path(__file__).parents[2] / "training" / "accelerate"


def started(name: str, folder: Path) -> list[str]:
    """How two processes are started with one of our accelerate files, changed to a CPU and float32.

    In the file: accelerate 1.15's `--cpu` makes it one process.
    """
    text = (FILES / f"{name}.yaml").read_text()
    for was, now in (("use_cpu: false", "use_cpu: true"), ("mixed_precision: bf16", 'mixed_precision: "no"')):
        assert was in text
        text = text.replace(was, now)
    (folder / "accelerate.yaml").write_text(text)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    return [*launch, "--num_processes", "2", "-m"]


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, digits_folder: Path, random_checkpoint: Path
) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, trained(1, out, digits_folder, random_checkpoint)


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
    compare(trained(*asked, start=start), out, alone)
    (out / "final").unlink()
    shutil.rmtree(out / f"checkpoint-{STEPS}")  # as if it had been killed in its last step
    compare(trained(*asked, "--resume", start=start), out, alone)


def compare(rows: list[dict[str, Any]], out: Path, alone: tuple[Path, list[dict[str, Any]]]) -> None:
    """Fail where the metrics or the weights of a run are not those of the other."""
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm", "reward", "reward_std", "entropy"):
        expected = [row[key] for row in alone[1]]
        assert [row[key] for row in rows] == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    one, two = (load_file(folder / "final" / "model.safetensors") for folder in (alone[0], out))
    assert two.keys() - one.keys() <= {"lm_head.weight"}  # tied, and written twice
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, rtol=1e-3, atol=1e-4, msg=key)
    assert json.loads((out / "final" / "r1vlm.json").read_text())["stage"] == "grpo"

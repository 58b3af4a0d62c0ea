"""Two processes (gloo, started by torchrun) take the same steps as one on the same global batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import MakeOnce
from tests.processes import invoke
from tests.training.fixed_rollouts import FixedRollouts
from training.trainers import grpo

pytestmark = pytest.mark.slow
STEPS = 3
FILES = Path(__file__).parents[2] / "training" / "launch" / "accelerate"
# A reference model that follows the one in training, and adapters, each with a KL term that shows when it is lost.
SYNCED = ["--set", "beta=0.1", "--set", "sync_ref_model=true", "--set", "ref_model_sync_steps=1"]
SYNCED += ["--set", "ref_model_mixup_alpha=0.5"]
SPLIT = ["--num-generations", "16"]  # one group a step
PLAIN = ["--set", "shared_prefix=false"]
CHOSEN = ["--set", "dynamic_sampling=true", "--curriculum", "pool"]
LORA = ["--set", "beta=0.1", "--set", "lora={r: 4, target_modules: all-linear}", "--set", "learning_rate=0.01"]


def trained(
    processes: int, out: Path, data: Path, model: Path, *more: str, start: list[str] | None = None
) -> list[dict[str, Any]]:
    """The metrics of a few steps on 16 completions a step, shared by so many processes, which `start` starts."""
    words = ["digits", "--data", str(data), "--model", str(model), "--out", str(out)]
    words += ["--hardware", "cpu", "--no-report"]
    words += ["--steps", str(STEPS), "--learning-rate", "1e-3", "--num-generations", "4"]
    for setting in (f"per_device_train_batch_size={16 // processes}", "max_completion_length=40", "save_steps=2"):
        words += ["--set", setting]
    words += ["--set", "reward_weights={format: 1}", "--set", "freeze_vision=false"]
    if processes == 1:
        with patch.object(grpo, "R1GRPOTrainer", FixedRollouts):
            done = invoke("training.cli", *words, *more)
    else:
        # accelerate 1.15's launch --cpu --num_processes 2 runs one process, and exits with 0: hence torchrun
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        start = start or [sys.executable, *torchrun, "-m"]
        command = [*start, "tests.training.fixed_rollouts", *words, *more]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained; score it") == 1, done.stdout
    assert "prompts are not shared" not in done.stdout, done.stdout
    return metrics(out)


def started(name: str, folder: Path) -> list[str]:
    """How two processes are started with one of our accelerate files, changed to a CPU.

    In the file: accelerate 1.15's `--cpu` makes it one process.
    """
    text = (FILES / f"{name}.yaml").read_text()
    assert "use_cpu: false" in text
    (folder / "accelerate.yaml").write_text(text.replace("use_cpu: false", "use_cpu: true"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    return [*launch, "--mixed_precision", "no", "--num_processes", "2", "-m"]


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check_same_metrics(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "reward", "reward_std", "entropy", "completions/mean_length"):
        wanted = [row[name] for row in expected]
        allowed = {"loss": {"rel": 0, "abs": 1e-6}, "grad_norm": {"rel": 0, "abs": 1e-5}}
        assert [row[name] for row in rows] == pytest.approx(wanted, **allowed.get(name, {"rel": 1e-4})), name


def check_same_weights(run: Path, expected: Path) -> None:
    weights, wanted = (load_file(out / "final" / "model.safetensors") for out in (run, expected))
    assert weights.keys() - wanted.keys() <= {"lm_head.weight"}  # tied, and written twice under DeepSpeed
    for name, weight in wanted.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="session")
def runs(
    make_once: MakeOnce, digits_folder: Path, random_checkpoint: Path
) -> dict[int, tuple[Path, list[dict[str, Any]]]]:
    def fill(folder: Path) -> None:
        for n in (1, 2):
            trained(n, folder / str(n), digits_folder, random_checkpoint)

    folder = make_once("processes", fill)
    return {n: (folder / str(n), metrics(folder / str(n))) for n in (1, 2)}


def test_loss_and_gradient_are_the_same(runs: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    one, two = (runs[n][1] for n in (1, 2))
    check_same_metrics(two, one)
    assert all(abs(row["loss"]) > 1e-3 and row["grad_norm"] > 0 for row in one)


def test_the_weights_end_the_same(runs: dict[int, tuple[Path, list[dict[str, Any]]]], random_checkpoint: Path) -> None:
    before, one = (load_file(folder / "model.safetensors") for folder in (random_checkpoint, runs[1][0] / "final"))
    moved = [name for name, weight in one.items() if not torch.equal(weight, before[name])]
    assert len(moved) > len(one) / 2
    check_same_weights(runs[2][0], runs[1][0])


def test_both_processes_write_one_run_folder(runs: dict[int, tuple[Path, list[dict[str, Any]]]]) -> None:
    one, two = (sorted((runs[n][0] / "completions.jsonl").read_text().splitlines()) for n in (1, 2))
    assert len(one) == 16 * STEPS
    assert two == one
    final = runs[2][0] / "final"
    assert {path.name for path in final.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not (runs[2][0] / ".saving").exists()
    assert json.loads((final / "r1vlm.json").read_text())["stage"] == "grpo"


def test_a_group_that_is_split_over_the_processes_takes_the_steps_of_trls_path(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """Each process has half of the one group, and computes image and prompt once for it."""
    one = trained(1, tmp_path / "1", digits_folder, random_checkpoint, *SPLIT, *PLAIN)
    two = trained(2, tmp_path / "2", digits_folder, random_checkpoint, *SPLIT)
    check_same_metrics(two, one)
    check_same_weights(tmp_path / "2", tmp_path / "1")


def test_two_processes_replace_the_same_groups(digits_folder: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    """Each process samples a part of the groups that are missing, and half a group where one is."""
    one, two = tmp_path / "1", tmp_path / "2"
    rows = trained(1, one, digits_folder, random_checkpoint, *CHOSEN)
    check_same_metrics(trained(2, two, digits_folder, random_checkpoint, *CHOSEN), rows)
    check_same_weights(two, one)
    assert any(row["sampling/frac_groups_replaced"] for row in rows)
    completions, state = (
        [(out / name).read_text() for out in (one, two)]
        for name in ("completions.jsonl", f"checkpoint-{STEPS}/questions.json")
    )
    assert sorted(completions[0].splitlines()) == sorted(completions[1].splitlines())
    assert state[0] == state[1]


def test_a_run_that_is_complete_is_no_failure_for_its_launcher(
    runs: dict[int, tuple[Path, list[dict[str, Any]]]], digits_folder: Path, random_checkpoint: Path
) -> None:
    out, rows = runs[2]
    assert trained(2, out, digits_folder, random_checkpoint, "--resume") == rows


@pytest.mark.parametrize("more", [SYNCED, LORA], ids=["synced reference", "LoRA"])
def test_a_resumed_run_takes_the_steps_of_one_that_was_not_killed(
    more: list[str], digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """One process; of several, test_zero.py. Without sharding several on a CPU can't load an optimizer.

    transformers 5.17 has torch load it to "cpu:0", which torch does not know.
    """
    out = tmp_path / "run"
    rows = trained(1, out, digits_folder, random_checkpoint, *more)
    weights = load_file(next((out / "final").glob("*model.safetensors")))
    assert rows[-1]["kl"] > 1e-4
    (out / "final").unlink()
    shutil.rmtree(out / f"checkpoint-{STEPS}")  # as if it had been killed in its last step
    again = trained(1, out, digits_folder, random_checkpoint, *more, "--resume")
    check_same_metrics(again, rows)
    for name, value in load_file(next((out / "final").glob("*model.safetensors"))).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5, msg=name)
    assert [row["kl"] for row in again] == pytest.approx([row["kl"] for row in rows], rel=1e-4)

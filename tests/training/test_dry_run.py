"""`r1vlm-train --dry-run` as users run it: a plan without dataset, weights or network, and one screen of help."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes import refused, run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digits"], "hardware: cpu (no GPU is visible)"),
        (["digits", "--hardware", "1gpu"], "GPU 0: train and generate in turn, 70 GiB of 80 GiB"),
        (["sum", "--hardware", "1gpu", "--gpu-memory", "24", "--set", "lora={r: 16}"], "LoRA of rank 16"),
        (["messages", "--hardware", "4gpu", "--gpu-memory", "80"], "GPU 3: generate (vLLM)"),
        (["digits", "--hardware", "8gpu", "--model", "Qwen/Qwen3-VL-8B-Instruct"], "8,767.1 million parameters"),
    ],
)
def test_a_plan_is_printed_and_nothing_is_started(words: list[str], says: str, tmp_path: Path) -> None:
    done = run("training.cli", *words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_fit_is_refused_after_the_plan(tmp_path: Path) -> None:
    done = run("training.cli", "digits", "--hardware", "1gpu", "--gpu-memory", "24", "--dry-run", cwd=tmp_path)
    assert "use --hardware 4gpu, or train LoRA adapters" in refused(done)
    assert "a training GPU, GiB" in done.stdout


def test_several_machines_get_a_script_of_slurm(tmp_path: Path) -> None:
    done = run("training.cli", "digits", "--hardware", "multinode", "--nodes", "3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = tmp_path / "runs" / "digits.slurm"
    assert str(script.relative_to(tmp_path)) in done.stdout
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text()
    assert "#SBATCH --nodes=3" in text
    assert "--num_machines 2" in text
    assert text.count("srun ") == 2


def test_the_help_is_one_screen() -> None:
    lines = run("training.cli", "--help").stdout.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "lora={r: abc}"], "its r should be a whole number above 0"),
        (["--set", "lora={r: null}"], "its r should be a whole number above 0"),
        (["--set", "save_steps=.nan"], "finite number"),
        (["--set", "eval_steps=0"], "a share of all of them below 1"),
        (["--set", "eval_steps=2.5"], "a share of all of them below 1"),
        (["--gpu-memory", "1e-12"], "is not the memory of a GPU"),
        (["--gpu-memory", "1e308"], "is not the memory of a GPU"),
        (["--hardware", "multinode", "--out", "file/run"], "is a file, and a folder is wanted there"),
        (["--hard", "multinode"], "unrecognized arguments"),
        (["--nodes", "4"], "--nodes is for multinode"),
    ],
)
def test_what_no_plan_can_have_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert says in refused(run("training.cli", "digits", "--dry-run", *words, cwd=tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}'])
def test_a_damaged_run_is_named(text: str, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    words = ["digits", "--data", digits_folder, "--out", tmp_path, "--resume"]
    assert "run.json is damaged" in refused(run("training.cli", *words))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

"""`r1vlm-train --dry-run` as users run it: a plan without dataset, weights or network, and one screen of help."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from datagen.registry import DATASETS
from datagen.task import DatasetSpec
from tests.processes import invoke, refused
from training import pipeline
from training.config import RunConfig, StageConfig
from training.launch import launch_config


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digits"], "hardware: cpu (no GPU is visible)"),
        (["digits", "--hardware", "1gpu"], "GPU 0: train and generate in turn, 69 GiB of 80 GiB"),
        (["sum", "--hardware", "1gpu", "--gpu-memory", "24", "--set", "lora={r: 16}"], "LoRA of rank 16"),
        (["messages", "--hardware", "4gpu", "--gpu-memory", "80"], "GPU 3: generate (vLLM)"),
        (["digits", "--hardware", "8gpu", "--model", "Qwen/Qwen3-VL-8B-Instruct"], "8,767.1 million parameters"),
    ],
)
def test_a_plan_is_printed_and_nothing_is_started(words: list[str], says: str, tmp_path: Path) -> None:
    done = invoke("training.cli", *words, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_fit_is_refused_after_the_plan(tmp_path: Path) -> None:
    done = invoke("training.cli", "digits", "--hardware", "1gpu", "--gpu-memory", "24", "--dry-run", cwd=tmp_path)
    assert "use --hardware 4gpu, or train LoRA adapters" in refused(done)
    assert "a training GPU, GiB" in done.stdout


def test_a_cold_start_has_no_plan(tmp_path: Path) -> None:
    done = invoke("training.cli", "digits", "--cold-start", "--dry-run", cwd=tmp_path)
    assert "leave it out with --cold-start" in refused(done)


def test_several_machines_get_a_script_of_slurm(tmp_path: Path) -> None:
    done = invoke("training.cli", "digits", "--hardware", "multinode", "--nodes", "3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = tmp_path / "runs" / "digits.slurm"
    assert str(script.relative_to(tmp_path)) in done.stdout
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text()
    assert "#SBATCH --nodes=3" in text
    assert "--num_machines 2" in text
    assert text.count("srun ") == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_fits_the_terminal_and_has_a_flag_for_every_field(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = invoke("training.cli", "--help").stdout
    assert max(map(len, text.splitlines())) <= columns
    for panel in ("Hardware", "Training", "Publishing"):
        assert f"─ {panel}" in text
    flags = set(re.findall(r"--[a-z-]+", text))
    other = {"report": "no-report", "preflight": "no-preflight", "settings": "set", "push": "push-to-hub"}
    for field in RunConfig.model_fields:
        assert f"--{other.get(field, field).replace('_', '-')}" in flags
    assert "[default: auto]" in text
    assert "[default: 30.0]" in text
    assert "[default: (the recipe's)]" in text


def test_a_task_is_planned_alone_even_where_its_name_is_in_that_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = DATASETS["digits"]
    longer = replace(digits.tasks[0], name="summary")  # "sum" is a part of it
    monkeypatch.setitem(DATASETS, "digits", replace(digits, tasks=(*digits.tasks, longer)))
    planned: list[list[str]] = []

    def plan_of(config: RunConfig, dataset: DatasetSpec, stage: StageConfig, recipe: str) -> tuple[None, str]:
        planned.append(stage.tasks)
        return None, ""

    monkeypatch.setattr(pipeline, "plan_of", plan_of)
    monkeypatch.setattr(pipeline, "with_hardware", lambda stage, plan: stage)
    monkeypatch.setattr(pipeline, "check_planned", lambda stage, plan: None)
    monkeypatch.setattr(launch_config, "print_plan", lambda *plan: None)
    for task, tasks in (("sum", ["sum"]), ("summary", ["summary"]), ("digits", ["list", "sum", "summary"])):
        pipeline.dry_run(RunConfig(task=task, model="small"))
        assert planned.pop() == tasks


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "lora={r: abc}"], "its r should be a whole number above 0"),
        (["--set", "lora={r: null}"], "its r should be a whole number above 0"),
        (["--set", "save_steps=.nan"], "finite number"),
        (["--set", "eval_steps=0"], "a share of all of them below 1"),
        (["--set", "eval_steps=2.5"], "a share of all of them below 1"),
        (["--gpu-memory", "1e-12"], "for '--gpu-memory'"),
        (["--gpu-memory", "1e308"], "for '--gpu-memory'"),
        (["--hardware", "multinode", "--out", "file/run"], "is a file, and a folder is wanted there"),
        (["--hard", "multinode"], "no such option: --hard"),
        (["--nodes", "4"], "--nodes is for multinode"),
        (["--set", "reward_weights={formt: 2}"], "did you mean 'format'"),
        (["--hardware", "2gpu", "--set", "vllm_tensor_parallel_size=2"], "changes nothing"),
    ],
)
def test_what_no_plan_can_have_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert says in refused(invoke("training.cli", "digits", "--dry-run", *words, cwd=tmp_path))


def test_no_script_is_written_for_tasks_that_are_not_trained_so(tmp_path: Path) -> None:
    words = ("zoom", "--hardware", "multinode", "--dry-run")
    assert "tasks of several turns" in refused(invoke("training.cli", *words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}'])
def test_a_damaged_run_is_named(text: str, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    words = ["digits", "--data", digits_folder, "--out", tmp_path, "--resume"]
    assert "run.json is damaged" in refused(invoke("training.cli", *words))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

"""What a run trains and reports with is looked for at its start, before a model is loaded or anything is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.processes import invoke, refused, run
from tests.training.conftest import TINY

WANDB = '''
import os

__version__ = "0.31.0"
run = None  # by which transformers knows that it is installed


class Error(Exception):
    """As wandb's."""


def login():
    """As wandb's where there is no terminal: offline there is no key to ask for."""
    if os.environ.get("WANDB_MODE") == "offline":
        return False
    raise Error("No API key configured.\\nUse `wandb login` to log in.")
'''


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "optim=adamw_8bit"], "bitsandbytes"),
        (["--set", "optim=paged_lion_8bit"], "bitsandbytes"),
        (["--report-to", "comet_ml"], "comet"),
        (["--report-to", "wandbb"], "wandbb"),
        (["--set", "lr_scheduler_type=polynomial", "--set", "lr_scheduler_kwargs={powers: 2}"], "powers"),
    ],
)
def test_what_is_not_installed_is_found_before_the_cold_start(
    more: list[str], says: str, few_digits: Path, tmp_path: Path
) -> None:
    words = ["digits", "--data", few_digits, "--model", "small", "--out", tmp_path / "run", *TINY, *more]
    assert says in refused(invoke("training.cli", *words))
    assert not (tmp_path / "run").exists()


def test_fewer_questions_than_a_step_asks_are_found_before_the_cold_start(few_digits: Path, tmp_path: Path) -> None:
    """TRL would take no step, and say nothing: 64 questions less 48 traces are 16."""
    words = ["digits", "--data", few_digits, "--model", "small", "--out", tmp_path / "run"]
    said = refused(invoke("training.cli", *words, "--set", "gradient_accumulation_steps=2", "--set", "max_steps=1"))
    assert "a step asks 32 questions, and only 16 without a trace are in the train split" in said
    assert not (tmp_path / "run" / "cold-start").exists()


@pytest.mark.parametrize("kwargs", ["{min_lr: 1e-7}", "{min_lr: 1.0e-7}", "{min_lr_rate: 1E-1}"])
def test_a_number_in_a_nested_setting_makes_a_scheduler(kwargs: str, few_digits: Path, tmp_path: Path) -> None:
    words = ["digits", "--data", few_digits, "--model", "small", "--out", tmp_path / "run", *TINY]
    words += ["--set", "lr_scheduler_type=cosine_with_min_lr", "--set", f"lr_scheduler_kwargs={kwargs}"]
    words += ["--set", "lora={r: 4, no_such: 1}"]  # which is looked at behind the scheduler
    assert "no_such" in refused(invoke("training.cli", *words))


def test_a_file_of_settings_may_begin_with_a_byte_order_mark(few_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(b"\xef\xbb\xbftemperature: hot\n")
    words = ["digits", "--data", few_digits, "--model", "small", "--out", tmp_path / "run"]
    assert "temperature='hot' is not possible" in refused(
        invoke("training.cli", *words, "--config", tmp_path / "settings.yaml")
    )


@pytest.mark.slow
def test_wandb_without_a_login_is_found_before_the_cold_start(few_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text(WANDB)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    words = ["digits", "--data", few_digits, "--model", "small", "--out", tmp_path / "run", "--report-to", "wandb"]
    done = run("training.cli", *words, env=env)
    assert "wandb takes no run (No API key configured. Use `wandb login` to log in.)" in refused(done)
    assert not (tmp_path / "run").exists()
    late = ("--set", "lora={r: 4, no_such: 1}")  # which is looked at behind the trackers
    assert "no_such" in refused(run("training.cli", *words, *late, env=env | {"WANDB_MODE": "offline"}))


@pytest.mark.slow
def test_a_generation_config_that_transformers_would_not_save_ends_no_run(
    random_checkpoint: Path, few_digits: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": False, "temperature": 0.5, "top_k": 5}))
    words: list[str | Path] = ["digits", "--model", folder, "--data", few_digits, "--steps", "1", "--no-report", *TINY]
    cold = ["--cold-start", "--traces", "8", "--set", "per_device_train_batch_size=8"]
    done = invoke("training.cli", *words[:7], *cold, "--out", tmp_path / "cold")
    assert done.returncode == 0, done.stderr
    done = invoke("training.cli", *words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for out in ("cold", "run"):
        saved = json.loads((tmp_path / out / "final" / "generation_config.json").read_text())
        assert not {"do_sample", "temperature", "top_k"} & saved.keys()

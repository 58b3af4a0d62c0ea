"""Settings: recipes that TRL accepts, and names and values that are refused with the nearest valid one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import UserError
from datagen.registry import TASKS
from training.config import (
    EXTRA_SETTINGS,
    RunConfig,
    Stage,
    StageConfig,
    make_trl_config,
    parse_assignments,
    resolve_settings,
)

STAGES: list[Stage] = ["cold_start", "grpo"]


def run_with(settings: dict[str, Any], stage: Stage, out: Path) -> StageConfig:
    return StageConfig(stage, "small", "data", ["sum"], str(out), 0, settings, "fingerprint", {})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", ["small", "default"])
def test_every_recipe_is_a_configuration_that_trl_accepts(stage: Stage, recipe: str, tmp_path: Path) -> None:
    settings = resolve_settings(recipe, stage, settings={"bf16": False})
    config = make_trl_config(run_with(settings, stage, tmp_path))
    for name, value in settings.items():
        assert name in EXTRA_SETTINGS[stage] or getattr(config, name) == value


@pytest.mark.parametrize("task", TASKS)
def test_rewards_are_weighed_by_name_for_every_task(task: str, tmp_path: Path) -> None:
    settings = resolve_settings("small", "grpo", settings={"reward_weights": {"correctness": 2}})
    run = replace(run_with(settings, "grpo", tmp_path), tasks=[task])
    names = list(TASKS[task].rewards)
    assert make_trl_config(run).reward_weights == [2.0 if name == "correctness" else 1.0 for name in names]
    run = replace(run, settings={**settings, "reward_weights": {"correctnes": 2.0}})
    with pytest.raises(UserError, match="did you mean 'correctness'"):
        make_trl_config(run)


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("temperature: 0.7\nmax_steps: 5\nnum_generations: 4\n")
    settings = resolve_settings("small", "grpo", file, {"max_steps": 6, "learning_rate": None}, {"num_generations": 2})
    assert (settings["temperature"], settings["max_steps"], settings["num_generations"]) == (0.7, 6, 2)
    assert settings["learning_rate"] == resolve_settings("small", "grpo")["learning_rate"]


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("temprature=1", "did you mean 'temperature'?"),
        ("temperature=hot", "temperature='hot' is not possible"),
        ("num_generations=2.5", "num_generations=2.5 is not possible"),
        ("temperature", "not of the form name=value"),
        ("temperature=[", "not valid YAML"),
        ("use_vllm=perhaps", "not possible"),
        ("output_dir=x", "use --out"),
        ("save_strategy=no", "save_steps"),
        ("reward_weights=[1, 2]", "not possible"),
        ("freeze_vision=maybe", "not possible"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(assignment: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_settings("small", "grpo", settings=parse_assignments([assignment]))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "temprature: 1\n"])
def test_a_wrong_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError):
        resolve_settings("small", "grpo", file)
    with pytest.raises(UserError, match="can't read"):
        resolve_settings("small", "grpo", tmp_path / "none.yaml")


def test_what_trl_refuses_is_one_sentence(tmp_path: Path) -> None:
    settings = resolve_settings("small", "grpo", settings={"num_generations": 3})
    with pytest.raises(UserError, match="TRL refuses these settings"):
        make_trl_config(run_with(settings, "grpo", tmp_path))


@pytest.mark.parametrize("text", ["1e-7", "1E-7", "+1.e-7", ".1e-6", "1.0e-07"])
def test_a_number_is_one_in_every_way_that_yaml_writes_it(text: str, tmp_path: Path) -> None:
    nested = f"lr_scheduler_kwargs={{min_lr: {text}}}"
    settings = resolve_settings("small", "grpo", settings=parse_assignments([nested]))
    assert settings["lr_scheduler_kwargs"] == {"min_lr": 1e-7}
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + f"lr_scheduler_kwargs:\n  min_lr: {text}\n".encode())
    assert resolve_settings("small", "grpo", file)["lr_scheduler_kwargs"] == {"min_lr": 1e-7}


def test_a_text_that_looks_like_a_number_is_written_and_read_as_a_text() -> None:
    config = RunConfig(task="digits", settings={"run_name": "1e-7", "lr_scheduler_kwargs": {"min_lr": 1e-7}})
    words = config.as_words()
    assert parse_assignments(words[i + 1] for i, word in enumerate(words) if word == "--set") == config.settings


def test_epochs_that_are_asked_for_are_not_made_void_by_the_recipe() -> None:
    assert resolve_settings("small", "grpo")["max_steps"] > 0
    settings = resolve_settings("small", "grpo", settings={"num_train_epochs": 2})
    assert (settings["num_train_epochs"], settings["max_steps"]) == (2, -1)
    with pytest.raises(UserError, match="makes num_train_epochs void"):
        resolve_settings("small", "grpo", None, {"max_steps": 5}, {"num_train_epochs": 2})

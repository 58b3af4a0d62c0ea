"""Settings: recipes that TRL accepts, and names and values that are refused with the nearest valid one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import UserError
from datagen.registry import TASKS
from training.config import EXTRA_SETTINGS, Stage, StageConfig, make_trl_config, parse_assignments, resolve_settings

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

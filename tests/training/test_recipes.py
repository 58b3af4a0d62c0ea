"""Every recipe with every hardware preset, as the objects of TRL, PEFT and accelerate that a run makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from peft import LoraConfig

from datagen.common.errors import UserError
from datagen.registry import TASKS, find_dataset
from tests.processes import invoke, refused
from training.config import EXTRA_SETTINGS, Stage, StageConfig, resolve_settings, validate_settings
from training.launch.launch_config import hardware_record
from training.launch.memory import GIB, built_in, shape_of
from training.launch.planner import Machine, PlanRequest, QuestionSize, make_plan
from training.launch.presets import PRESETS, Preset
from training.models import DEFAULT_MODEL, SMALL
from training.recipes import load_recipe, recipe_for, recipes
from training.trainers.zero_variance import check_zero_variance_settings
from training.trl_config import make_trl_config

STAGES: list[Stage] = ["cold_start", "grpo"]
DIGITS = QuestionSize(width=84, height=84, prompt=250, solution=106)


def run_of(recipe: str, stage: Stage, out: Path) -> StageConfig:
    settings = resolve_settings(recipe, stage, settings={"bf16": False})  # bf16 is refused without a GPU
    return StageConfig(stage, "", "data", list(TASKS), str(out), 0, settings, "", {})


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_is_possible_with_every_preset(recipe: str, preset: Preset, tmp_path: Path) -> None:
    asked = run_of(recipe, "grpo", tmp_path)
    shape = shape_of(load_recipe(recipe).get("model", DEFAULT_MODEL))
    question = PlanRequest(shape.name, shape, asked.settings, DIGITS, ["digits"], tmp_path)
    impossible = asked.settings.get("lora") or asked.settings["beta"]
    if preset.sharding == "fsdp2" and impossible:
        with pytest.raises(UserError, match=r"no LoRA adapters|a reference model of zeros"):
            make_plan(question, preset, Machine(80 * GIB, cores=48))
        return
    plan = make_plan(question, preset, Machine(80 * GIB, cores=48))
    placed = dict(hardware_record(plan)["settings"])
    # TRL counts the processes that there are; the rule it checks is that of one process with as many completions
    placed["per_device_train_batch_size"] *= preset.processes
    config = make_trl_config(StageConfig(**{**asked.as_json(), "hardware": {"settings": placed}}))
    assert config.generation_batch_size == plan.batch.completions
    if asked.settings.get("drop_zero_variance"):
        check_zero_variance_settings(config)
    expected = {name: value for name, value in asked.settings.items() if name not in EXTRA_SETTINGS["grpo"]} | placed
    assert {name: getattr(config, name) for name in expected} == expected
    if preset.accelerate:
        assert load_config_from_file(str(preset.accelerate_file)).mixed_precision == "bf16"


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_is_a_configuration_for_both_stages(recipe: str, tmp_path: Path) -> None:
    for stage in STAGES:
        settings = load_recipe(recipe)[stage]
        assert validate_settings(stage, dict(settings)) == settings
    make_trl_config(run_of(recipe, "cold_start", tmp_path))
    settings = load_recipe(recipe)["grpo"]
    if "lora" in settings:
        assert LoraConfig(task_type="CAUSAL_LM", **settings["lora"]).r == settings["lora"]["r"]


def test_the_first_reports_are_as_they_were_reported() -> None:
    same = {"learning_rate": 1e-6, "adam_beta2": 0.98, "lr_scheduler_type": "cosine", "warmup_steps": 0}
    same |= {"beta": 0.001, "sync_ref_model": True, "ref_model_sync_steps": 64, "temperature": 1.0}
    own = {
        "first-digits": (15, 512, 5, 4),
        "first-words": (15, 512, 5, 4),
        "first-messages": (9, 400, 3, 5),
    }
    names = ("num_generations", "max_completion_length", "per_device_train_batch_size", "gradient_accumulation_steps")
    for recipe, numbers in own.items():
        found = load_recipe(recipe)["grpo"]
        assert found | same | dict(zip(names, numbers, strict=True)) == found
    assert load_recipe("first-messages")["grpo"]["curriculum"] == "difficulty"
    shape = built_in()[DEFAULT_MODEL]
    plan = make_plan(
        PlanRequest(DEFAULT_MODEL, shape, load_recipe("first-messages")["grpo"], DIGITS, [], Path("runs"), fixed=True),
        PRESETS["4gpu"],
        Machine(80 * GIB),
    )
    assert (plan.batch.per_device, plan.batch.accumulation, plan.batch.processes) == (3, 5, 3)


def test_a_model_has_one_recipe() -> None:
    made_for = [own["model"] for own in recipes().values() if "model" in own]
    assert len(made_for) == len(set(made_for))
    assert set(made_for) - set(SMALL) == set(built_in())
    assert {name: recipe_for(name, find_dataset("messages")) for name in SMALL} == {
        "small": "small",
        "small-ciphers": "small",
        "small-messages": "long-messages",
    }
    for name in made_for:
        assert load_recipe(recipe_for(f"{name}@1234", find_dataset("digits")))["model"] == name


def test_a_recipe_is_chosen_by_name(tmp_path: Path) -> None:
    words = ["digits", "--hardware", "1gpu", "--dry-run"]
    done = invoke("training.cli", *words, "--recipe", "qwen3-vl-4b", cwd=tmp_path)
    assert "Qwen/Qwen3-VL-4B-Instruct, all weights" in done.stdout, done.stderr
    done = invoke("training.cli", *words, "--recipe", "lora", "--model", "Qwen/Qwen2.5-VL-7B-Instruct", cwd=tmp_path)
    assert "Qwen/Qwen2.5-VL-7B-Instruct, LoRA of rank 16" in done.stdout, done.stderr
    done = invoke("training.cli", "digits", "--hardware", "2gpu", "--dry-run", "--recipe", "smolvlm", cwd=tmp_path)
    assert """--mm-processor-kwargs '{"do_image_splitting": false}'""" in done.stdout, done.stderr
    assert "did you mean 'lora'" in refused(invoke("training.cli", *words, "--recipe", "lorra", cwd=tmp_path))

"""Settings: recipes that TRL accepts, and names and values that are refused with the nearest valid one."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from datagen.common.errors import UserError
from datagen.registry import TASKS
from tests.processes import invoke, refused
from training.config import (
    EXTRA_SETTINGS,
    RunConfig,
    Stage,
    StageConfig,
    check_adapter,
    check_generation,
    parse_assignments,
    resolve_settings,
)
from training.trl_config import config_class, make_trl_config
from training.trl_fields import trl_fields
from training.void_settings import GENERATION, RULES

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
        ("model_init_kwargs={dtype: bfloat16}", "use --model"),
        ("trust_remote_code=true", "never run"),
        ("per_device_eval_batch_size=2", "use --eval-steps"),
        ("model=Qwen/Qwen3-VL-2B-Instruct", "use --model"),
        ("model_name_or_path=x", "use --model"),
        ("eval-steps=3", "use --eval-steps"),
        ("warmup_ratio=0.1", "below 1"),
        ("max_prompt_length=512", "never cut"),
        ("num_generation_eval=1", "did you mean 'num_generations_eval'?"),
        ("top_n=1", "did you mean 'top_p' or 'top_k'"),
        ("qqq=1", "there is no setting 'qqq': TRL's GRPOConfig and SFTConfig have none"),
        ("generation_kwargs={top_k: 5}", "set top_k in place"),
        ("generation_kwargs={max_new_tokens: 5}", "set max_completion_length in place"),
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


def test_epochs_that_are_asked_for_are_not_made_void_by_the_recipe(few_digits: Path, tmp_path: Path) -> None:
    assert resolve_settings("small", "grpo")["max_steps"] > 0
    settings = resolve_settings("small", "grpo", settings={"num_train_epochs": 2})
    assert (settings["num_train_epochs"], settings["max_steps"]) == (2, -1)
    words = ["digits", "--data", few_digits, "--out", tmp_path / "run", "--set", "num_train_epochs=2", "--steps", "5"]
    assert "makes num_train_epochs void" in refused(invoke("training.cli", *words))
    assert not list(tmp_path.iterdir())


VOID = [  # each needs what stands behind its colon, which is not set
    ("cold_start", ["lr_scheduler_type=constant", "warmup_steps=3"], "warmup_steps: constant_with_warmup"),
    ("grpo", ["lr_scheduler_type=constant_with_warmup", "lr_scheduler_kwargs={a: 1}"], "lr_scheduler_kwargs:"),
    ("grpo", ["optim=adafactor", "adam_beta2=0.9"], "adam_beta2: Adam"),
    ("cold_start", ["gradient_checkpointing_kwargs={use_reentrant: true}"], "gradient_checkpointing_kwargs:"),
    ("grpo", ["dataloader_persistent_workers=true"], "dataloader_persistent_workers: dataloader_num_workers"),
    ("grpo", ["run_name=mine"], "run_name: --report-to"),
    ("cold_start", ["eval_steps=5"], "eval_steps: GRPO"),
    ("cold_start", ["packing=true"], "packing: without images"),
    ("cold_start", ["loss_type=dft", "label_smoothing_factor=0.1"], "label_smoothing_factor: nll"),
    ("cold_start", ["length_column_name=n"], "length_column_name:"),
    ("grpo", ["loss_type=sapo", "epsilon=0.3"], "epsilon: loss_type"),
    ("grpo", ["loss_type=cispo", "epsilon=0.3", "epsilon_high=5.0"], "epsilon: epsilon_high alone"),
    ("grpo", ["loss_type=cispo", "delta=2"], "delta: dapo"),
    ("grpo", ["epsilon_high=0.3"], "epsilon_high: num_iterations"),
    ("grpo", ["sapo_temperature_pos=2"], "sapo_temperature_pos: loss_type=sapo"),
    ("grpo", ["vespo_k_neg=2"], "vespo_k_neg: loss_type=vespo"),
    ("grpo", ["loss_type=vespo", "importance_sampling_level=sequence"], "importance_sampling_level: VESPO"),
    ("grpo", ["beta=0.1", "ref_model_sync_steps=2"], "ref_model_sync_steps: sync_ref_model=true"),
    ("grpo", ["sync_ref_model=true"], "sync_ref_model: beta above 0"),
    ("grpo", ["beta=0.1", "lora={r: 4}", "sync_ref_model=true"], "sync_ref_model: adapter"),
    ("grpo", ["entropy_target=0.3"], "entropy_target: use_adaptive_entropy=true"),
    ("grpo", ["multi_objective_aggregation=normalize_then_sum", "scale_rewards=group"], "scale_rewards:"),
    ("grpo", ["num_completions_to_print=3"], "num_completions_to_print: log_completions=true"),
    ("grpo", ["curriculum=difficulty", "shuffle_dataset=false"], "shuffle_dataset: --curriculum"),
    ("grpo", ["curriculum=pool", "shuffle_dataset=false"], "shuffle_dataset: --curriculum"),
    ("grpo", ["dynamic_sampling=true", "shuffle_dataset=false"], "shuffle_dataset: dynamic_sampling=false"),
    ("grpo", ["train_sampling_strategy=sequential"], "train_sampling_strategy: --curriculum"),
    ("grpo", ["vllm_importance_sampling_correction=false", "vllm_importance_sampling_clip_min=0.5"], "clip_min:"),
]


@pytest.mark.parametrize(("stage", "assignments", "says"), VOID)
def test_a_setting_that_another_makes_void_is_refused(
    stage: Stage, assignments: list[str], says: str, few_digits: Path, tmp_path: Path
) -> None:
    name, _, needs = says.partition(": ")
    words = ["digits", "--data", few_digits, "--model", "small", "--recipe", "small", "--out", tmp_path / "run"]
    words += [word for assignment in assignments for word in ("--set", assignment)]
    sentence = refused(invoke("training.cli", *words, *(["--cold-start"] if stage == "cold_start" else [])))
    assert f"{name.rstrip(':')} changes nothing beside the other settings: " in sentence
    assert needs in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stage", "assignments"),
    [
        ("grpo", ["num_iterations=2", "epsilon_high=0.3"]),
        ("grpo", ["steps_per_generation=4", "epsilon=0.3"]),
        ("grpo", ["loss_type=sapo", "sapo_temperature_pos=2", "epsilon=0.2"]),  # 0.2 is what it would be anyway
        ("grpo", ["beta=0.1", "sync_ref_model=true", "ref_model_sync_steps=2"]),
        ("cold_start", ["lr_scheduler_type=constant_with_warmup", "warmup_steps=3"]),
        ("cold_start", ["warmup_steps=0.1"]),
        ("grpo", ["use_adaptive_entropy=true", "entropy_target=0.3"]),
        ("grpo", ["lora={r: 4, target_modules: all-linear}", "freeze_vision=false"]),
    ],
)
def test_a_setting_that_takes_effect_is_accepted(stage: Stage, assignments: list[str]) -> None:
    given = parse_assignments(assignments)
    assert resolve_settings("small", stage, settings=given).items() >= given.items()


@pytest.mark.parametrize("stage", STAGES)
def test_the_source_of_trl_gives_the_fields_that_its_class_has(stage: Stage) -> None:
    own, read = {field.name: field for field in fields(config_class(stage))}, trl_fields(stage)
    types = get_type_hints(config_class(stage))
    assert set(read) == set(own)
    computed = {name for name in own if read[name].default is None and own[name].default is not None}
    assert computed <= {"optim", "include_for_metrics"}
    assert all(read[name].default == own[name].default for name in own if name not in computed)
    others = {name for name in own if read[name].type != types[name]}
    assert others == {name for name in own if re.search("transformers|accelerate", str(types[name]))}


@pytest.mark.parametrize("stage", STAGES)
def test_the_rules_name_settings_that_there_are(stage: Stage) -> None:
    known = {*EXTRA_SETTINGS[stage], *(field.name for field in fields(config_class(stage)))}
    rules = RULES[stage] + (GENERATION if stage == "grpo" else [])
    assert {name for names, _, _ in rules for name in names} <= known


@pytest.mark.parametrize(
    ("assignment", "hardware", "says"),
    [
        ("use_vllm=true", {}, "use --vllm"),
        ("vllm_gpu_memory_utilization=0.5", {}, "use --vllm colocate or --vllm server"),
        ("vllm_importance_sampling_mode=token_mask", {}, "use --vllm colocate"),
        ("vllm_server_port=9000", {"use_vllm": True, "vllm_mode": "server"}, "starts the server itself"),
        ("vllm_max_model_length=99", {"use_vllm": True, "vllm_mode": "server"}, "use --vllm colocate"),
        ("vllm_server_timeout=9", {"use_vllm": True, "vllm_mode": "colocate"}, "use --vllm server"),
        ("cache_implementation=static", {"use_vllm": True, "vllm_mode": "colocate"}, "use --vllm off"),
    ],
)
def test_a_setting_that_the_hardware_makes_void_is_refused(
    assignment: str, hardware: dict[str, Any], says: str, tmp_path: Path
) -> None:
    stage = run_with(parse_assignments([assignment]), "grpo", tmp_path)
    with pytest.raises(UserError, match=says):
        check_generation(replace(stage, hardware={"settings": hardware}))


@pytest.mark.parametrize(
    ("kind", "value"), [("use_dora", "true"), ("trainable_token_indices", "[1]"), ("ensure_weight_tying", "true")]
)
def test_an_adapter_that_vllm_cannot_be_sent_is_refused_before_it_is_loaded(
    kind: str, value: str, few_digits: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    stage = run_with({"lora": {"r": 4, kind: [1]}}, "grpo", tmp_path)
    check_adapter(stage, {})
    with_vllm = {"settings": {"use_vllm": True, "vllm_mode": "colocate"}}
    says = f"an adapter with {kind} changes: generate with --vllm off"
    with pytest.raises(UserError, match=says):
        check_adapter(replace(stage, settings={}, hardware=with_vllm), {kind: [1]})
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--recipe", "small", "--hardware", "cpu"]
    words += ["--vllm", "colocate", "--out", tmp_path / "run", "--set", f"lora={{r: 4, {kind}: {value}}}"]
    assert says in refused(invoke("training.cli", *words))
    assert not list(tmp_path.iterdir())

"""Every recipe takes two steps of GRPO on the model it is made for: shrunk, random weights."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datagen import r1_format
from datagen.dataset.reader import open_dataset
from tests.processes import invoke
from tests.training.architectures import shrunk
from tests.training.gemma import IMAGE_TOKENS, shrunk_gemma
from training.config import Stage, StageConfig, parse_assignments, resolve_settings
from training.launch.memory import shape
from training.models import DEFAULT_MODEL, load_model
from training.recipes import load_recipe, recipes
from training.trainers import grpo, sft

TINY = ("bf16=false", "max_steps=2", "save_steps=2", "save_only_model=true", "learning_rate=1e-3", "warmup_steps=0")
GROUPS = ("num_generations=2", "per_device_train_batch_size=2", "gradient_accumulation_steps=2")
WELL_FORMED = "I see 3.</think>\n<answer>[3]</answer>"
SAMPLED = 4  # tokens of a completion: random weights never end one


class Taught(grpo.R1GRPOTrainer):
    """Completions are sampled by the model as they are in training; then come others, every second in the format."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **options: Any) -> Any:
        completions, logprobs = super()._generate_single_turn(prompt_ids, *rest, **options)
        banned = set(r1_format.vision_token_ids(self.processing_class.tokenizer.get_vocab()))
        assert all(0 < len(ids) <= SAMPLED and not banned.intersection(ids) for ids in completions)
        texts = [WELL_FORMED if i % 2 else "3" for i in range(len(completions))]
        ids = self.processing_class.tokenizer(texts)["input_ids"]
        return [[*one, self.processing_class.tokenizer.eos_token_id] for one in ids], logprobs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Makes the shrunk model of a name, once, and removes them at the end."""
    folder = tmp_path_factory.mktemp("shrunk")

    def make(model: str) -> Path:
        path = folder / model.rpartition("/")[2]
        return path if path.exists() else shrunk(model, path)

    yield make
    shutil.rmtree(folder)


def run_of(recipe: str, stage: Stage, model: Path, data: Path, out: Path, *sets: str) -> StageConfig:
    settings = resolve_settings(recipe, stage, settings=parse_assignments([*TINY, *sets]))
    built = open_dataset(data)
    out.mkdir()
    return StageConfig(stage, str(model), built.name, ["list", "sum"], str(out), 0, settings, built.fingerprint, {})


def moved(before: Path, after: Path) -> set[str]:
    """The names of the weights that a run has changed."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return {name for name, weight in new.items() if not torch.equal(weight, old[name])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [name for name, own in recipes().items() if "small" not in (name, own.get("extends"))]
)
def test_two_steps_of_every_recipe(
    recipe: str, checkpoint: Any, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "R1GRPOTrainer", Taught)
    model = checkpoint(load_recipe(recipe).get("model", DEFAULT_MODEL))
    asked = run_of(recipe, "grpo", model, digits_folder, tmp_path / "run", *GROUPS)
    asked.settings["generation_kwargs"] = {"max_new_tokens": SAMPLED}  # which no user may: it cuts off right answers
    last = grpo.train(asked)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["frac_groups_zero_variance"] == 0 for row in rows)
    assert all(row["rewards/format/mean"] == 0.5 and row["grad_norm"] > 0 for row in rows)
    if asked.settings["beta"]:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
        assert rows[1]["kl"] > 0
    if "lora" in asked.settings:
        weights = load_file(last / "adapter_model.safetensors")
        trained = {name for name, weight in weights.items() if "lora_B" in name and weight.any()}
        assert any("language_model" in name for name in trained)
        assert any("visual" in name for name in trained) == (recipe == "lora-vision")
    else:
        seeing = {name: "visual" in name or "vision_model" in name for name in moved(model, last)}
        assert set(seeing.values()) == {True, False}
    shutil.rmtree(tmp_path / "run")
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["default", "qwen3-vl-2b", "smolvlm"])
def test_the_cold_start_of_every_family(recipe: str, checkpoint: Any, digits_folder: Path, tmp_path: Path) -> None:
    model = checkpoint(load_recipe(recipe)["model"])
    sets = ("traces=8", "per_device_train_batch_size=2", "gradient_accumulation_steps=1")
    sft.train(run_of(recipe, "cold_start", model, digits_folder, tmp_path / "run", *sets))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["loss"] < rows[0]["loss"]
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("recipe", ["default", "qwen3-vl-2b", "smolvlm"])
def test_a_trace_begins_as_the_prompt_ends(recipe: str, checkpoint: Any) -> None:
    """In every family's chat template the model is taught the tokens that it is asked to continue."""
    settings = load_recipe(recipe)["grpo"]
    _, processor = load_model(str(checkpoint(load_recipe(recipe)["model"])), settings)
    text = [{"type": "text", "text": "Q"}]
    question = [{"role": "user", "content": [{"type": "image"}, *text]}]
    trace = {"role": "assistant", "content": [{"type": "text", "text": r1_format.format_solution("I see 3.", "3")}]}
    prompt = processor.apply_chat_template(question, add_generation_prompt=True)
    assert prompt.endswith(r1_format.OPENING)
    assert processor.apply_chat_template([*question, trace]).startswith(prompt)
    assert r1_format.with_opening(processor.chat_template) == processor.chat_template
    assert r1_format.OPENING not in r1_format.without_opening(processor.chat_template)
    if recipe == "smolvlm":
        assert processor.image_processor.do_image_splitting is False
        banned = processor.tokenizer.convert_ids_to_tokens(r1_format.vision_token_ids(processor.tokenizer.get_vocab()))
        assert {"<image>", "<fake_token_around_image>", "<global-img>", "<row_1_col_1>"} <= set(banned)


@pytest.mark.slow
def test_gemma_trains_and_is_evaluated(digits_folder: Path, tmp_path: Path) -> None:
    """Its processor writes one token for an image into the prompt, and another one for each part of it afterwards."""
    model, out = shrunk_gemma(tmp_path / "gemma"), tmp_path / "run"
    words: list[str | Path] = ["digits", "--model", model, "--data", digits_folder, "--out", out, "--no-report"]
    words += ["--steps", "1", "--set", "per_device_train_batch_size=8", "--set", "num_generations=4"]
    done = invoke("training.cli", *words)
    assert done.returncode == 0, done.stderr
    assert "one placeholder an image, the opening words once, no vision token can be sampled" in done.stdout
    assert "prompts are not shared, which takes longer: the model has layers of sliding_attention" in done.stdout
    completions = (out / "completions.jsonl").read_text()
    assert not any(token in completions for token in IMAGE_TOKENS.values())
    config = json.loads((out / "final" / "generation_config.json").read_text())
    tokens = {one["id"]: one["content"] for one in json.loads((model / "tokenizer.json").read_text())["added_tokens"]}
    assert {tokens[token] for token in config["eos_token_id"]} == {"<eos>", "<end_of_turn>"}
    assert {tokens[token] for token in config["suppress_tokens"]} >= set(IMAGE_TOKENS.values())
    words = [
        out / "final",
        "--data",
        digits_folder,
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
        "--out",
        tmp_path / "eval",
    ]
    done = invoke("evaluation.cli", *words)
    assert done.returncode == 0, done.stderr


TEXT = dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 8)
TEXT |= {"num_key_value_heads": 4, "vocab_size": 8}


@pytest.mark.parametrize(
    ("vision", "more", "patches", "tokens"),
    [
        ({"image_size": 896, "patch_size": 14}, {"mm_tokens_per_image": 256}, 4096, 256),  # Gemma 3
        ({"image_size": [448, 448], "patch_size": [14, 14]}, {"image_seq_length": 256}, 1024, 256),  # InternVL
        ({"image_size": 336, "patch_size": 14}, {}, 576, 576),  # LLaVA-1.5
    ],
)
def test_a_plan_knows_towers_that_see_images_of_one_size(
    vision: dict[str, Any], more: dict[str, int], patches: int, tokens: int
) -> None:
    config = {"model_type": "other", "text_config": TEXT, "vision_config": TEXT | vision, **more}
    assert shape("other", config, (8, 4, 2)).image(224, 224) == (patches, tokens)

"""The transformers engine, on the small model with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.reader import open_dataset
from datagen.hub import generation
from datagen.hub.generation import FAMILIES
from datagen.interaction import Observation
from evaluation.backends import transformers as engine
from evaluation.backends.base import Prompt, Sampling
from evaluation.backends.vllm import gpu_ids
from evaluation.prompt_variants import R1


@pytest.fixture(scope="module")
def rows(digits_folder: Path) -> Any:
    return open_dataset(digits_folder).questions("test")


@pytest.fixture(scope="module")
def loaded(random_checkpoint: Path) -> engine.TransformersBackend:
    return engine.load(random_checkpoint, Sampling(6), 4)


@pytest.fixture
def copy(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return shutil.copytree(random_checkpoint, tmp_path / "copy")


def prompts(rows: Any, count: int) -> list[Prompt]:
    return [R1.prompt(rows, place) for place in range(count)]


def answers(loaded: engine.TransformersBackend, some: list[Prompt]) -> list[str]:
    """What was generated for each, in order."""
    found = dict(loaded.generate(some))
    return [found[place] for place in range(len(some))]


def prompt_ids(inputs: Any) -> list[list[int]]:
    """The ids of each prompt of a padded batch."""
    pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in pairs]


def test_prompts_are_trls(loaded: engine.TransformersBackend, rows: Any) -> None:
    from trl.data_utils import prepare_multimodal_messages  # not above: it imports datasets, which fixes its cache

    batch = list(rows.select(range(6)))
    expected = loaded.processor.apply_chat_template(
        [prepare_multimodal_messages(row["prompt"], [row["image"]]) for row in batch],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    inputs = loaded.inputs(prompts(rows, 6))
    assert prompt_ids(inputs) == expected["input_ids"]
    assert torch.equal(inputs["pixel_values"], torch.as_tensor(expected["pixel_values"]))
    assert loaded.processor.decode(inputs["input_ids"][0]).endswith(r1_format.OPENING)


def test_prompts_are_padded_on_the_left(loaded: engine.TransformersBackend, rows: Any) -> None:
    short = R1.prompt(rows, 0)
    longer = Prompt("longer", r1_format.make_prompt("What? " * 20, "6"), short.shown, opening=True)
    mask = loaded.inputs([short, longer])["attention_mask"]
    assert mask[0, 0] == 0
    assert mask[0, -1] == 1
    assert mask[1].all()


def test_the_opening_words_are_given_once_or_not(loaded: engine.TransformersBackend, rows: Any) -> None:
    def rendered(prompt: Prompt) -> str:
        return str(loaded.processor.decode(loaded.inputs([prompt])["input_ids"][0]))

    given = R1.prompt(rows, 0)
    assert rendered(given).count(r1_format.OPENING) == 1
    assert rendered(replace(given, opening=False)) == rendered(given).removesuffix(r1_format.OPENING)


def test_a_batch_answers_as_each_question_alone(loaded: engine.TransformersBackend, rows: Any) -> None:
    few = prompts(rows, 4)
    alone = replace(loaded, batch_size=1)
    assert answers(loaded, few) == answers(alone, few)


@pytest.mark.parametrize("recipe", ["qwen2-vl-2b", "default", "qwen3-vl-2b", "smolvlm"])
def test_what_prompts_share_is_read_once_and_answers_stay_the_same(
    recipe: str, rows: Any, family: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = engine.load(family(recipe), Sampling(12), 8)
    torch.manual_seed(0)
    for weight in loaded.model.parameters():  # as they were made, they say one token again and again
        weight.data += torch.randn_like(weight)
    asked = [R1.prompt(rows, place, sample) for sample in (0, 1) for place in range(5)]
    seen = Observation("Look again.", rows[0]["image"].resize((84, 56)))
    asked.append(replace(asked[0], history=[("<think>\n5\n</think>", seen)]))  # with two images
    asked.append(replace(asked[1], messages=r1_format.make_prompt("What? " * 20, "6")))

    def said(families: tuple[str, ...]) -> list[list[int]]:
        monkeypatch.setattr(generation, "FAMILIES", families)
        return loaded.generate_ids(asked)

    ends = [ids[place + 2] for place, ids in enumerate(said(())[:4])]  # so that answers end one after the other
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", ends)
    plain = said(())
    assert len({next((place for place, token in enumerate(ids) if token in ends), 12) for ids in plain}) > 2
    assert said(FAMILIES) == plain
    inputs, group, _ = loaded.shared_inputs(asked)
    assert len(inputs["input_ids"]) == len(set(rows[:5]["image_id"])) + 1  # one has two images
    assert len(group) == len(asked)


def test_several_samples_differ_and_come_again(random_checkpoint: Path, rows: Any) -> None:
    drawing = engine.load(random_checkpoint, Sampling(6, temperature=1.0), 4)
    few = [R1.prompt(rows, place, sample) for sample in (0, 1) for place in range(4)]
    first = answers(drawing, few)
    assert first[:4] != first[4:]
    assert answers(drawing, few) == first


def test_vision_tokens_are_never_generated(
    loaded: engine.TransformersBackend, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = loaded.processor.tokenizer.convert_tokens_to_ids(list(r1_format.VISION_TOKENS))
    hook = loaded.model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(vision), 1e4)
    )
    batch = prompts(rows, 3)
    try:
        assert not {token for ids in loaded.generate_ids(batch) for token in ids} & set(vision)
        monkeypatch.setattr(loaded.model.generation_config, "suppress_tokens", None)
        monkeypatch.setattr(loaded.model.generation_config, "max_new_tokens", 1)
        tempted = loaded.generate_ids(batch)  # this model wants nothing else
        assert {token for ids in tempted for token in ids} <= set(vision)
    finally:
        hook.remove()


def test_a_checkpoints_own_sampling_is_not_used(copy: Path, rows: Any, loaded: engine.TransformersBackend) -> None:
    settings = json.loads((copy / "generation_config.json").read_text())
    own = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 1.5}
    (copy / "generation_config.json").write_text(json.dumps({**settings, **own}))
    few = prompts(rows, 3)
    assert answers(engine.load(copy, Sampling(6), 4), few) == answers(loaded, few)


def test_the_opening_words_are_added_where_they_lack(copy: Path, loaded: engine.TransformersBackend, rows: Any) -> None:
    template = copy / "chat_template.jinja"
    bare = r1_format.without_opening(template.read_text())
    assert r1_format.PREAMBLE.strip() not in bare
    template.write_text(bare)
    few = prompts(rows, 2)
    assert prompt_ids(engine.load(copy, Sampling(6), 4).inputs(few)) == prompt_ids(loaded.inputs(few))


def test_weights_that_are_torn(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match="has damaged weights"):
        engine.load(copy, Sampling(6), 4)


def test_weights_that_are_missing(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        engine.load(copy, Sampling(6), 4)


def test_a_model_of_another_kind(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="can't be loaded"):
        engine.load(copy, Sampling(6), 4)


@pytest.mark.parametrize(
    ("count", "named", "found"),
    [(0, None, []), (2, None, ["0", "1"]), (2, "5, 7", ["5", "7"]), (1, "GPU-3f,GPU-4a", ["GPU-3f"]), (0, "", [])],
)
def test_each_copy_of_vllm_sees_one_of_the_gpus_that_we_see(count: int, named: str | None, found: list[str]) -> None:
    assert gpu_ids(count, named) == found

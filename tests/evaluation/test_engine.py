"""The transformers engine, on the small model with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from datagen import r1
from datagen.dataset import open_dataset
from datagen.errors import UserError
from evaluation import engine


@pytest.fixture(scope="module")
def rows(digits_folder: Path) -> Any:
    return open_dataset(digits_folder).questions("test")


@pytest.fixture(scope="module")
def loaded(random_checkpoint: Path) -> engine.Engine:
    return engine.load(random_checkpoint, max_new_tokens=6)


@pytest.fixture
def copy(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return shutil.copytree(random_checkpoint, tmp_path / "copy")


def prompt_ids(inputs: Any) -> list[list[int]]:
    """The ids of each prompt of a padded batch."""
    pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in pairs]


def test_prompts_are_trls(loaded: engine.Engine, rows: Any) -> None:
    from trl.data_utils import prepare_multimodal_messages  # not above: it imports datasets, which fixes its cache

    batch = list(rows.select(range(6)))
    expected = loaded.processor.apply_chat_template(
        [prepare_multimodal_messages(row["prompt"], [row["image"]]) for row in batch],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    inputs = engine.model_inputs(loaded, batch)
    assert prompt_ids(inputs) == expected["input_ids"]
    assert torch.equal(inputs["pixel_values"], torch.as_tensor(expected["pixel_values"]))
    assert loaded.processor.decode(inputs["input_ids"][0]).endswith(r1.OPENING)


def test_prompts_are_padded_on_the_left(loaded: engine.Engine, rows: Any) -> None:
    short = rows[0]
    longer = {**short, "prompt": r1.messages("What? " * 20, "6")}
    mask = engine.model_inputs(loaded, [short, longer])["attention_mask"]
    assert mask[0, 0] == 0
    assert mask[0, -1] == 1
    assert mask[1].all()


def test_messages_begin_with_the_opening_words(loaded: engine.Engine, rows: Any) -> None:
    messages = list(engine.answer(loaded, rows.select(range(5)), batch_size=2))
    assert len(messages) == 5
    for message in messages:
        assert message.startswith(r1.OPENING)
        assert message.count(r1.PREAMBLE) == 1


def test_a_batch_answers_as_each_question_alone(loaded: engine.Engine, rows: Any) -> None:
    few = rows.select(range(4))
    assert list(engine.answer(loaded, few, 4)) == list(engine.answer(loaded, few, 1))


def test_vision_tokens_are_never_generated(loaded: engine.Engine, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = loaded.processor.tokenizer.convert_tokens_to_ids(list(r1.VISION_TOKENS))
    hook = loaded.model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor(vision), 1e4)
    )
    batch = list(rows.select(range(3)))
    try:
        assert not {token for ids in engine.generate_ids(loaded, batch) for token in ids} & set(vision)
        monkeypatch.setattr(loaded.model.generation_config, "suppress_tokens", None)
        monkeypatch.setattr(loaded.model.generation_config, "max_new_tokens", 1)
        tempted = engine.generate_ids(loaded, batch)  # this model wants nothing else
        assert {token for ids in tempted for token in ids} <= set(vision)
    finally:
        hook.remove()


def test_a_checkpoints_own_sampling_is_not_used(copy: Path, rows: Any, loaded: engine.Engine) -> None:
    settings = json.loads((copy / "generation_config.json").read_text())
    own = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 1.5}
    (copy / "generation_config.json").write_text(json.dumps({**settings, **own}))
    few = rows.select(range(3))
    assert list(engine.answer(engine.load(copy, 6), few, 3)) == list(engine.answer(loaded, few, 3))


def test_the_opening_words_are_added_where_they_lack(copy: Path, loaded: engine.Engine) -> None:
    template = copy / "chat_template.jinja"
    bare = template.read_text().removesuffix(r1.with_opening(""))
    assert r1.PREAMBLE.strip() not in bare
    template.write_text(bare)
    assert engine.load(copy, 6).processor.chat_template == loaded.processor.chat_template


def test_weights_that_are_torn(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"can't be loaded as a vision-language model: "):
        engine.load(copy, 6)


def test_weights_that_are_missing(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        engine.load(copy, 6)


def test_a_model_of_another_kind(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="can't be loaded"):
        engine.load(copy, 6)

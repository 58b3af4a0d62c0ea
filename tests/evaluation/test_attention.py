"""Where a model looks: the weights are transformers' own, and the heads that are shown are those that look up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from evaluation.attention.forward import attention, check_attention
from evaluation.attention.heads import cells_of, choose_heads
from evaluation.backends import transformers
from evaluation.backends.base import Prompt, Sampling

BASE = Path(__file__).parents[2] / "training" / "builtin_models" / "base"


def question(*sizes: tuple[int, int]) -> Prompt:
    """A question about images of these sizes, width and height."""
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(256, size=(h, w, 3), dtype=np.uint8)) for w, h in sizes]
    return Prompt("one", r1_format.make_prompt("How many?", "3"), images, opening=True)


@pytest.mark.parametrize("recipe", ["default", "qwen2-vl-2b", "qwen3-vl-2b"])
def test_the_weights_are_those_that_transformers_gives(family: Callable[[str], Path], recipe: str) -> None:
    backend = transformers.load(family(recipe), Sampling(4), 1)
    prompt, model = question((112, 56), (56, 84)), backend.model
    said = backend.processor.tokenizer("I see 3.", add_special_tokens=False)["input_ids"]
    looked = attention(backend, prompt, said)

    inputs = dict(backend.inputs([prompt]))
    start = inputs["input_ids"].shape[1]
    tokens = torch.tensor([said])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], 1)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        whole = torch.stack(model(**inputs, output_attentions=True).attentions)[:, 0]
    image = inputs["input_ids"][0] == model.config.image_token_id
    wanted = whole[:, :, start - 1 : -1][..., image].numpy()
    np.testing.assert_allclose(looked.weights, wanted, atol=1e-6)

    first, second = looked.maps([(0, 0), (0, 1)])
    assert [first.shape[1:], second.shape[1:]] == list(looked.grids)
    flat = np.concatenate([first.reshape(len(said), -1), second.reshape(len(said), -1)], axis=1)
    np.testing.assert_allclose(flat, wanted[0].mean(0), atol=1e-6)


def test_a_look_changes_no_answer(random_checkpoint: Path) -> None:
    backend = transformers.load(random_checkpoint, Sampling(8), 1)
    prompt = question((84, 84))
    before = backend.generate_ids([prompt])
    attention(backend, prompt, before[0])
    assert backend.model.get_decoder().config._attn_implementation == "sdpa"
    assert backend.generate_ids([prompt]) == before


def test_a_model_without_a_grid_gets_a_sentence(family: Callable[[str], Path]) -> None:
    backend = transformers.load(family("smolvlm"), Sampling(4), 1)
    with pytest.raises(UserError, match="where a smolvlm looks can't be shown"):
        check_attention(backend)


def test_the_heads_that_are_chosen_look_at_what_is_read() -> None:
    backend = transformers.load(BASE, Sampling(4), 1)
    choice = choose_heads(backend, DatasetConfig(dataset="digits", seed=0), examples=24)
    assert {layer for layer, _ in choice.heads} == {2}  # the last of three
    assert choice.share > choice.chance
    assert choice.found > 0.5 > choice.chance
    own = choose_heads(backend, None, examples=24)
    assert (own.heads, own.dataset, own.share) == (choice.heads, "digits", choice.share)


def test_cells_by_hand() -> None:
    def cells(*boxes: tuple[int, int, int, int]) -> list[int]:
        return np.flatnonzero(cells_of(boxes, (90, 60), (2, 3))).tolist()

    assert cells((0, 0, 30, 30)) == [0]
    assert cells((15, 15, 45, 45)) == [0, 1, 3, 4]  # a quarter of each
    assert cells((5, 0, 35, 30)) == [0]  # a sixth of the second
    assert cells((29, 29, 31, 31)) == [0, 1, 3, 4]  # a quarter of the box in each
    assert cells((0, 0, 90, 30), (60, 30, 90, 60)) == [0, 1, 2, 5]


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(9, 99), st.integers(9, 99)),
    st.data(),
)
def test_a_box_has_a_cell_where_it_is(grid: tuple[int, int], size: tuple[int, int], data: Any) -> None:
    left, top = (data.draw(st.integers(0, side - 1)) for side in size)
    right, bottom = data.draw(st.integers(left + 1, size[0])), data.draw(st.integers(top + 1, size[1]))
    covered = cells_of([(left, top, right, bottom)], size, grid).reshape(grid)
    assert covered.any()
    rows, columns = covered.nonzero()
    assert (rows * size[1] < bottom * grid[0]).all()
    assert ((rows + 1) * size[1] > top * grid[0]).all()
    assert (columns * size[0] < right * grid[1]).all()
    assert ((columns + 1) * size[0] > left * grid[1]).all()

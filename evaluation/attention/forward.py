"""The attention on the images behind each token of an answer, by one plain forward pass over the whole conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from evaluation.backends.base import Prompt
from evaluation.backends.transformers import TransformersBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Head = tuple[int, int]
"""Layer and head, both from 0 on."""


@dataclass(frozen=True)
class Attention:
    """The attention on the images, at the positions from which the tokens of an answer are predicted.

    `weights` are (layers, heads, tokens, image tokens): shares of all attention of a head, text included. `grids` are
    the rows and columns of image tokens of each image; the images follow one another, each row by row.
    """

    weights: NDArray[np.float32]
    grids: Sequence[tuple[int, int]]

    def mean(self, heads: Sequence[Head]) -> NDArray[np.float32]:
        """The mean share of some heads, (tokens, image tokens)."""
        layers, numbers = zip(*heads, strict=True)
        shares: NDArray[np.float32] = self.weights[list(layers), list(numbers)].mean(0)
        return shares

    def maps(self, heads: Sequence[Head]) -> list[NDArray[np.float32]]:
        """For each image (tokens, rows, columns): the mean share of some heads."""
        mean, found, start = self.mean(heads), [], 0
        for rows, columns in self.grids:
            found.append(mean[:, start : start + rows * columns].reshape(-1, rows, columns))
            start += rows * columns
        return found


def check_attention(backend: TransformersBackend) -> None:
    """Check that image tokens of a model can be told, and where in the image they are.

    Raises:
        UserError: where they can't.
    """
    config, images = backend.model.config, backend.processor.image_processor
    if getattr(config, "image_token_id", None) is None or getattr(images, "merge_size", None) is None:
        raise UserError(
            f"where a {config.model_type} looks can't be shown: its image tokens are no grid of merged patches, as "
            "those of Qwen2-VL, Qwen2.5-VL and Qwen3-VL are"
        )


def attention(backend: TransformersBackend, prompt: Prompt, ids: Sequence[int]) -> Attention:
    """The attention behind each of the tokens `ids` that follow a prompt.

    Raises:
        UserError: for a model of another family than `check_attention` knows.
    """
    import torch

    check_attention(backend)
    inputs = dict(backend.inputs([prompt]))
    start = inputs["input_ids"].shape[1]
    said = torch.tensor([list(ids)], device=inputs["input_ids"].device)
    follow = {"input_ids": said, "attention_mask": torch.ones_like(said)}
    for name, known in inputs.items():
        if known.shape[:2] == (1, start):  # also of the kinds of token, of which text is 0
            inputs[name] = torch.cat([known, follow.get(name, torch.zeros_like(said)).to(known.dtype)], 1)
    image = (inputs["input_ids"][0, :start] == backend.model.config.image_token_id).nonzero()[:, 0]
    rows = slice(start - 1, start - 1 + len(ids))
    with torch.inference_mode(), _recorded(backend.model, rows, image) as layers:
        backend.model(**inputs, logits_to_keep=1)
    merge = backend.processor.image_processor.merge_size
    grids = [(int(height) // merge, int(width) // merge) for _, height, width in inputs["image_grid_thw"].tolist()]
    return Attention(torch.stack(layers).numpy(), grids)


@contextmanager
def _recorded(model: Any, rows: slice, columns: Any) -> Iterator[list[Any]]:
    """Inside, a forward pass adds the weights (heads, rows, columns) of each layer to the list.

    Kernels of attention give no weights: the text model computes them in plain steps inside, one layer at a time.
    """
    decoder, layers, hooks = model.get_decoder(), list[Any](), []

    def record(_: Any, __: Any, output: Any) -> None:
        layers.append(output[1][0, :, rows][..., columns].float().cpu())

    before = decoder.config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        for name, module in decoder.named_modules():
            if name.endswith("self_attn"):
                hooks.append(module.register_forward_hook(record))
        yield layers
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation({"text_config": before})

"""Which heads look a text up: measured on drawn examples whose every look-up has a known place in the image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from datagen.dataset.shards import draw_example, r1_row, row_id, stored_row
from datagen.interaction import decode_image
from datagen.task import DatasetSpec
from evaluation.attention.forward import Head, attention
from evaluation.backends.base import Prompt
from evaluation.backends.transformers import TransformersBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES = 64  # half to choose by, half to measure on
MOST = 8  # heads
COVERED = 0.25  # of a cell, or of a box
FALLBACK = "digits"  # for datasets of which it is not known where a text is read


@dataclass(frozen=True)
class LookUp:
    """The attention of all heads where a trace reads a text off the image, and which image tokens show that text.

    `weights` are (layers, heads, image tokens), `right` is (image tokens).
    """

    weights: NDArray[np.float32]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class HeadChoice:
    """The heads that look up, best first, and what was measured of them on look-ups that they were not chosen by.

    `share` of their attention is on the right cells, which are `chance` of the image; `found` is how often the cell
    with the most attention is a right one, of `n` look-ups in examples of `dataset`.
    """

    heads: tuple[Head, ...]
    share: float
    chance: float
    found: float
    n: int
    dataset: str

    def __str__(self) -> str:
        """The sentence that goes with every map."""
        names = ", ".join(f"{layer + 1}.{head + 1}" for layer, head in self.heads)
        return (
            f"Attention of layer.head {names}, chosen on other examples. On {self.n} look-ups in {self.dataset}, "
            f"{self.share:.0%} of it is on the cell that shows the text, which is {self.chance:.0%} of the image; the "
            f"cell with the most attention is a right one in {self.found:.0%}."
        )


def choose_heads(backend: TransformersBackend, config: DatasetConfig | None, examples: int = EXAMPLES) -> HeadChoice:
    """The heads with at least half the best one's share of attention on the right cells, `MOST` at most.

    They are chosen on half of some examples of the validation split, and measured on the other half, while the model is
    made to say the right trace. The examples are those of `FALLBACK` where it is not known of the recipe's own (or of
    images that are not drawn) where a text is read.

    Raises:
        UserError: for a model whose image tokens can't be placed, or where no trace reads a text with a known place.
    """
    import numpy as np

    if config is None or config.spec.reads is None:
        config = DatasetConfig(dataset=FALLBACK, seed=0)
    half = examples // 2
    choosing = [one for index in range(half) for one in look_ups(backend, config, index)]
    measuring = [one for index in range(half, examples) for one in look_ups(backend, config, index)]
    if not choosing or not measuring:
        raise UserError(
            f"no heads are chosen: no trace of {config.dataset} reads a text that its drawing has a region of"
        )
    shares = np.mean([one.weights[..., one.right].sum(-1) for one in choosing], axis=0)
    best = sorted(np.ndindex(*shares.shape), key=lambda head: -shares[head])[:MOST]
    heads = tuple((layer, head) for layer, head in best if shares[layer, head] >= shares[best[0]] / 2)
    maps = [np.mean([one.weights[head] for head in heads], axis=0) for one in measuring]
    return HeadChoice(
        heads,
        share=float(np.mean([seen[one.right].sum() for seen, one in zip(maps, measuring, strict=True)])),
        chance=float(np.mean([one.right.mean() for one in measuring])),
        found=float(np.mean([one.right[seen.argmax()] for seen, one in zip(maps, measuring, strict=True)])),
        n=len(measuring),
        dataset=config.dataset,
    )


def look_ups(backend: TransformersBackend, config: DatasetConfig, index: int) -> Iterator[LookUp]:
    """The look-ups in the trace of an example of the validation split.

    Raises:
        UserError: where the dataset is one of images of your own, which are not drawn.
    """
    drawn = draw_example(config, "validation", index)
    raw = stored_row(config.spec, row_id(config, "validation", index), drawn)
    tasks = [task for task in config.spec.tasks if task.applies_to(raw)]
    row = r1_row(config.spec, tasks[index % len(tasks)], raw)
    text = r1_format.completion_of(row["solution"])
    tokens = backend.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    prompt = Prompt(row["id"], row["prompt"], [decode_image(row["image"])], opening=True)
    looked = attention(backend, prompt, tokens["input_ids"])
    for match in read_texts(config.spec, text):
        if match[0] not in drawn.regions:
            continue
        token = next(i for i, (_, end) in enumerate(tokens["offset_mapping"]) if match.start() < end)
        right = cells_of(drawn.regions[match[0]], drawn.image.size, looked.grids[0])
        yield LookUp(looked.weights[:, :, token], right)


def read_texts(spec: DatasetSpec, completion: str) -> list[re.Match[str]]:
    """The texts that a completion reads off the image, as far as a dataset says which these are."""
    return list(spec.reads.finditer(completion.partition("</think>")[0])) if spec.reads else []


def cells_of(
    boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which cells of a grid (rows, columns) on an image of a size (width, height) show one of the boxes, row by row.

    A cell shows a box where a quarter of it is covered, or of the box where that is smaller; one cell at least does.
    """
    import numpy as np

    rows, columns = grid
    height, width = size[1] / rows, size[0] / columns
    x, y = np.arange(columns) * width, np.arange(rows) * height
    covered = np.zeros(grid, dtype=bool)
    for left, top, right, bottom in boxes:
        across = np.clip(np.minimum(right, x + width) - np.maximum(left, x), 0, None)
        down = np.clip(np.minimum(bottom, y + height) - np.maximum(top, y), 0, None)
        shared = np.outer(down, across)
        enough = COVERED * min(width * height, (right - left) * (bottom - top))
        covered |= shared >= min(enough, shared.max())
    return covered.reshape(-1)

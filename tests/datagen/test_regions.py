"""Where a drawing says that a text stands, the image shows that text; and traces read nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datagen.dataset.config import DatasetConfig
from datagen.dataset.shards import draw_example, r1_row, raw_row
from datagen.registry import DATASETS
from datagen.rendering.cipher_table import entry_indices, render_entries
from datagen.sources.vocabulary import ALPHABETS

READ = [name for name, spec in DATASETS.items() if spec.reads]


def dark(image: Image.Image) -> np.ndarray:
    """Which pixels are nearer to ink than to paper."""
    return np.asarray(image.convert("L")) < 144


@pytest.mark.parametrize("name", READ)
def test_every_text_that_a_trace_reads_has_a_place_in_the_image(name: str) -> None:
    config = DatasetConfig(dataset=name, seed=5)
    for index in range(20):
        raw, drawn = raw_row(config, "validation", index), draw_example(config, "validation", index)
        width, height = drawn.image.size
        for task in (task for task in config.spec.tasks if task.applies_to(raw)):
            assert config.spec.reads
            reasoning = r1_row(config.spec, task, raw)["solution"].partition("</think>")[0]
            read = config.spec.reads.findall(reasoning)
            assert read == (sorted(map(str, raw["digits"])) if "digits" in raw else list(letters(raw)))
            for left, top, right, bottom in (box for text in read for box in drawn.regions[text]):
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height


def letters(raw: dict[str, str]) -> str:
    """The letters of a message, without its spaces."""
    return raw["message"].replace(" ", "")


def test_all_ink_of_digits_is_in_their_boxes() -> None:
    config = DatasetConfig(dataset="digits", seed=5)
    for index in range(20):
        drawn = draw_example(config, "train", index)
        ink = dark(drawn.image)
        for box in (box for boxes in drawn.regions.values() for box in boxes):
            left, top, right, bottom = box
            assert ink[top:bottom, left:right].any()
            ink[top:bottom, left:right] = False
        assert not ink.any()


@pytest.mark.parametrize("options", [{}, {"alphabet": "8", "cell": "40"}, {"alphabet": "13"}])
def test_the_box_of_a_letter_shows_its_entry(options: dict[str, str]) -> None:
    config = DatasetConfig(dataset="messages", seed=5, options=options)
    for index in range(5):
        drawn = draw_example(config, "train", index)
        key, cell = drawn.truth["key"], config.options["cell"]
        for coded, plain in zip(ALPHABETS[len(key)], key, strict=True):
            (box,) = drawn.regions[plain]
            entry = render_entries(entry_indices(coded, plain), "sans", cell)[:, : 2 * cell]
            assert (dark(drawn.image.crop(box)) == (entry > 15)).mean() > 0.98

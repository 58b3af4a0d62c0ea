"""The drawings show what their truth says."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from datagen.dataset.shards import load_material, raw_row
from datagen.registry import DATASETS
from datagen.rendering.cipher_table import FONTS, SHADES, _entry
from datagen.sources.vocabulary import ALPHABETS, load_vocabulary


def rows(name: str, count: int, seed: int = 1, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    config = DatasetConfig(dataset=name, size=10_000, seed=seed, options=options)
    return [raw_row(config, split, index) for index in range(count)]


def ink(row: dict[str, Any]) -> np.ndarray:
    """The image as ink, 0.0 for its paper to 1.0 for its darkest."""
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        grey = np.asarray(image.convert("RGB"), dtype=float).mean(-1)
    return (grey.max() - grey) / max(grey.max() - grey.min(), 1.0)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("words", {}, (252, 168)),
        ("messages", {"alphabet": 8, "letters": (3, 5)}, (112, 112)),
        ("messages", {"alphabet": 13, "font": "serif"}, (196, 112)),
        ("messages", {"font": "mono", "cell": 14}, (126, 84)),
    ],
)
def test_the_decoder_shows_every_pair_of_the_key_once(name: str, options: dict, size: tuple[int, int]) -> None:
    cell, font = options.get("cell", 28), options.get("font", "sans")
    for row in rows(name, 5, **options):
        picture = ink(row)
        assert picture.shape == size
        tiles = [
            picture[y : y + cell, x : x + 2 * cell]
            for y in range(0, size[0], cell)
            for x in range(0, size[1], 2 * cell)
        ]
        alphabet = ALPHABETS[len(row["key"])]
        assert sorted(row["key"]) == sorted(alphabet)
        for coded, plain in zip(alphabet, row["key"], strict=True):
            expected = _entry(coded, plain, font, cell) / (SHADES - 1)
            assert sum(np.abs(tile - expected).max() < 0.03 for tile in tiles) == 1
        blank = len(tiles) - len(alphabet)
        assert sum(tile.max() < 0.03 for tile in tiles) == blank
        decode = str.maketrans(alphabet + "_", row["key"] + " ")
        assert row["coded_message"].translate(decode) == row["message"]
        assert row["coded_message"] != row["message"].replace(" ", "_")


def test_options_of_messages_do_what_they_say() -> None:
    found = rows("messages", 60, alphabet=8, letters=(3, 5), words=(2, 3), vocabulary=20_000)
    ranks = {word: rank for rank, word in load_vocabulary().ranked}
    assert {row["num_words"] for row in found} == {2, 3}
    for row in found:
        assert row["message"].split(" ") == row["words"]
        assert len(set(row["words"])) == row["num_words"] == len(row["words"])
        assert all(set(word) <= set("aeinorst") and 3 <= len(word) <= 5 for word in row["words"])
        assert all(ranks[word] <= 20_000 for word in row["words"])
        assert (row["word_length"], row["alphabet_size"]) == (max(map(len, row["words"])), 8)
    with pytest.raises(UserError, match="raise --vocabulary, or widen --letters"):
        rows("messages", 1, alphabet=8, letters=(20, 20))


def test_fonts_and_noise_are_drawn_from_the_examples_own_stream() -> None:
    plain, noisy = (rows("words", 4, font="any", noise=noise) for noise in (0, 12))
    assert noisy == rows("words", 4, font="any", noise=12)
    assert [row["message"] for row in plain] == [row["message"] for row in noisy]
    shown = [
        font
        for row in rows("words", 12, font="any")
        for font in FONTS
        if any(
            np.abs(tile - _entry(row["coded_message"][0], row["message"][0], font, 28) / (SHADES - 1)).max() < 0.03
            for tile in ink(row).reshape(9, 28, 3, 56).swapaxes(1, 2).reshape(27, 28, 56)
        )
    ]
    assert len(shown) >= 12
    assert set(shown) == set(FONTS)
    assert all(np.unique(ink(row).round(2)).size > 60 for row in noisy)


def test_words_are_common_clean_english() -> None:
    words = load_vocabulary()
    known = {word for _, word in words.ranked}
    assert {"cat", "house", "people"} <= known
    assert not known & {"shit", "porn", "nazi", "at", "don't", "café"}
    assert all(len(word) >= 3 and word.isascii() and word.isalpha() and word.islower() for word in known)
    assert [rank for rank, _ in words.ranked] == sorted({rank for rank, _ in words.ranked})


def test_no_drawing_of_counting_is_empty() -> None:
    empty = [row for row in rows("counting", 600) if not row["digits"]]
    assert len(empty) > 10
    assert all(ink(row).max() == 1.0 for row in empty)


def test_counts_are_balanced_and_the_boxes_hold_the_digits() -> None:
    found = rows("counting", 440)
    glyphs = load_material("mnist-5k", "train")
    assert min(Counter(row["count"] for row in found).values()) > 20
    targets = Counter(row["target"] for row in found)
    assert set(targets) == {None, *range(10)}
    assert 0.4 < targets[None] / len(found) < 0.6
    sides = set()
    for row in found:
        wanted = [d for d in row["digits"] if row["target"] in (None, d)]
        assert len(wanted) == row["count"]
        assert len(row["digits"]) == len(row["boxes"]) == len(row["glyph_ids"])
        assert [int(glyphs.labels[glyphs.ids.index(name)]) for name in row["glyph_ids"]] == row["digits"]
        taken = np.zeros((168, 168), dtype=int)
        for x1, y1, x2, y2 in row["boxes"]:
            taken[y1:y2, x1:x2] += 1
            sides.add(x2 - x1)
        assert taken.max(initial=0) <= 1
    assert {18, 32} <= sides
    assert any(row["target"] is None and ink(row)[boxes_mask(row)].max(initial=0) > 0.5 for row in found)
    assert any(row["target"] is not None and len(row["digits"]) > row["count"] for row in found)


def boxes_mask(row: dict[str, Any]) -> np.ndarray:
    """Where no digit is: the outlines that are none must be there."""
    free = np.full((168, 168), True)
    for x1, y1, x2, y2 in row["boxes"]:
        free[y1:y2, x1:x2] = False
    return free


@pytest.mark.parametrize("name", list(DATASETS))
def test_two_seeds_share_no_image_and_no_key_with_its_message(name: str) -> None:
    one, other = (rows(name, 250, seed=seed) for seed in (1, 2))
    assert not {row["image"]["bytes"] for row in one} & {row["image"]["bytes"] for row in other}
    if "key" in one[0]:
        assert not {(row["key"], row["message"]) for row in one} & {(row["key"], row["message"]) for row in other}

"""The picture of a decoder: which letter stands for which, as a table of `coded → plain`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datagen.canvas import paint
from datagen.options import Option, one_of, whole

FONTS = {"sans": "DejaVuSans.ttf", "serif": "DejaVuSerif.ttf", "mono": "DejaVuSansMono.ttf"}
OPTIONS = (
    Option("font", "sans", one_of(*FONTS, "any"), "of the decoder: sans, serif, mono, or any of them"),
    Option("cell", 28, whole(14, 112), "pixels of a letter's cell: 28 is one merged patch of Qwen2.5-VL"),
    Option("noise", 0, whole(0, 64), "the decoder's ink and paper vary by up to this much of 255"),
)


def draw_decoder(rng: np.random.Generator, pairs: list[tuple[str, str]], options: Mapping[str, Any]) -> Image.Image:
    """The pairs (coded, plain) as a table, filled row by row in random order.

    A pair takes two cells, one for each letter, with an arrow between them; two pairs stand side by side, and three
    where there are more than 13.
    """
    font = options["font"] if options["font"] != "any" else str(rng.choice(list(FONTS)))
    cell = options["cell"]
    columns = 2 if len(pairs) <= 13 else 3
    rows = -(-len(pairs) // columns)
    ink = np.zeros((rows, cell, columns, 2 * cell), dtype=np.uint8)
    for position, chosen in enumerate(rng.permutation(len(pairs)).tolist()):
        ink[position // columns, :, position % columns] = _pair(*pairs[chosen], font, cell)
    flat = ink.reshape(rows * cell, columns * 2 * cell)
    if options["noise"]:
        change = rng.integers(-options["noise"], options["noise"], size=flat.shape, endpoint=True)
        flat = np.clip(flat + change, 0, 255).astype(np.uint8)
    return paint(rng, flat)


@cache
def _pair(coded: str, plain: str, font: str, cell: int) -> NDArray[np.uint8]:
    """Ink of one entry of the table, (cell, 2 * cell)."""
    picture = Image.new("L", (2 * cell, cell))
    pen = ImageDraw.Draw(picture)
    letters, arrow = _font(font, cell * 5 // 7), _font(font, cell * 3 // 7)
    pen.text((cell * 0.5, cell * 0.45), coded, 255, letters, anchor="mm")
    pen.text((cell * 0.94, cell * 0.45), "→", 255, arrow, anchor="mm")
    pen.text((cell * 1.38, cell * 0.45), plain, 255, letters, anchor="mm")
    return np.asarray(picture)


@cache
def _font(font: str, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu as matplotlib ships it, laid out by Pillow itself: the same on every machine."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / FONTS[font]
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)

"""The picture of a decoder: which letter stands for which, as a table of `coded → plain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.options import Option, choice, integer
from datagen.rendering.compositing import Box, colorize
from datagen.sources.vocabulary import ALPHABETS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageFont

SHADES = 32  # from paper to ink: enough for smooth letters, and faster to compress than 256
LETTERS = ALPHABETS[26]
FONTS = {"sans": "DejaVuSans.ttf", "serif": "DejaVuSerif.ttf", "mono": "DejaVuSansMono.ttf"}
OPTIONS = (
    Option("font", "sans", choice(*FONTS, "any"), "sans|serif|mono|any", "Font of the cipher table."),
    Option("cell", 28, integer(14, 112), "N", "Give a letter N pixels; 28 is one merged patch of Qwen2.5-VL."),
    Option("noise", 0, integer(0, 64), "N", "Vary ink and paper by up to N of 255."),
)


def draw_cipher_table(
    rng: np.random.Generator, coded: str, plain: str, options: Mapping[str, Any]
) -> tuple[Image.Image, list[Box]]:
    """A table in random order of what each coded letter stands for: in each entry an arrow between the two letters.

    With it, the boxes of the entries in the order of the letters.
    """
    image, (order,) = _draw(rng, [(coded, plain)], options)
    return image, entry_boxes(order, options["cell"])


def draw_cipher_tables(
    rng: np.random.Generator, tables: Sequence[tuple[str, str]], options: Mapping[str, Any]
) -> Image.Image:
    """Tables below one another, all as high as the highest: of each the coded letters, and what they stand for."""
    return _draw(rng, tables, options)[0]


def _draw(
    rng: np.random.Generator, tables: Sequence[tuple[str, str]], options: Mapping[str, Any]
) -> tuple[Image.Image, list[list[int]]]:
    """The tables, and of each the number of the entry in each place."""
    import numpy as np

    font = options["font"] if options["font"] != "any" else str(rng.choice(list(FONTS)))
    most = max(len(coded) for coded, _ in tables)
    orders = [rng.permutation(len(coded)) for coded, _ in tables]
    numbers = [
        np.pad(entry_indices(coded, plain)[order], (0, most - len(coded)), constant_values=-1)
        for (coded, plain), order in zip(tables, orders, strict=True)
    ]
    flat = np.concatenate([render_entries(one, font, options["cell"]) for one in numbers])
    places = [order.tolist() for order in orders]
    if not options["noise"]:
        return colorize(rng, flat, SHADES), places
    change = rng.integers(-options["noise"], options["noise"], size=flat.shape, endpoint=True)
    return colorize(rng, np.clip(flat * (255 / (SHADES - 1)) + change, 0, 255).astype(np.uint8)), places


def entry_indices(coded: str, plain: str) -> NDArray[np.int64]:
    """The number of the entry for each coded letter and what it stands for, as `table` takes them."""
    import numpy as np

    rows, columns = (np.frombuffer(text.encode(), dtype=np.uint8) - np.int64(ord("a")) for text in (coded, plain))
    return rows * len(LETTERS) + columns


def entry_boxes(order: Sequence[int], cell: int) -> list[Box]:
    """Where each entry of a table stands, of which `order` has the number of the entry in each place."""
    columns = columns_of(len(order))
    boxes = [(0, 0, 0, 0)] * len(order)
    for place, entry in enumerate(order):
        row, column = divmod(place, columns)
        boxes[entry] = (2 * cell * column, cell * row, 2 * cell * (column + 1), cell * (row + 1))
    return boxes


def columns_of(entries: int) -> int:
    """How many entries of a table stand side by side."""
    return 2 if entries <= 13 else 3


def render_entries(numbers: NDArray[np.int64], font: str, cell: int) -> NDArray[np.uint8]:
    """Ink (0 to 31) of the entries row by row, each in two cells; two side by side, three where there are over 13."""
    import numpy as np

    columns = columns_of(len(numbers))
    full = np.concatenate((numbers, np.full(-len(numbers) % columns, -1)))
    inks: NDArray[np.uint8] = _entries(font, cell)[full.reshape(-1, columns)]
    return inks.swapaxes(1, 2).reshape(-1, columns * 2 * cell)


@cache
def _entries(font: str, cell: int) -> NDArray[np.uint8]:
    """Ink of every letter with every other, those of `a` first, and of none at the end: (entries, cell, 2 * cell)."""
    import numpy as np

    inks = [_entry(coded, plain, font, cell) for coded in LETTERS for plain in LETTERS]
    return np.stack([*inks, np.zeros_like(inks[0])])


def _entry(coded: str, plain: str, font: str, cell: int) -> NDArray[np.uint8]:
    """Ink of one entry of the table, (cell, 2 * cell), 0 to 31."""
    import numpy as np
    from PIL import Image, ImageDraw

    picture = Image.new("L", (2 * cell, cell))
    pen = ImageDraw.Draw(picture)
    letters, arrow = _font(font, cell * 5 // 7), _font(font, cell * 3 // 7)
    pen.text((cell * 0.5, cell * 0.45), coded, 255, letters, anchor="mm")
    pen.text((cell * 0.94, cell * 0.45), "→", 255, arrow, anchor="mm")
    pen.text((cell * 1.38, cell * 0.45), plain, 255, letters, anchor="mm")
    return np.asarray(picture) // (256 // SHADES)


@cache
def _font(font: str, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu as matplotlib ships it, laid out by Pillow itself: the same on every machine."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")  # where it is, without the third of a second that importing it takes
    if spec is None or spec.origin is None:
        raise RuntimeError("matplotlib, which has the fonts, is not installed")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / FONTS[font]
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)

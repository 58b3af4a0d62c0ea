"""Drawing on a canvas: light paper, dark ink, nothing overlapping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

CANVAS = 84  # pixels: 3 x 3 merged patches of Qwen2.5-VL (14-pixel patches, merged 2 x 2)
TRIES = 64  # places tried for a box before all boxes are placed anew
DARK, LIGHT = range(64), range(224, 256)  # values of red, green and blue
LOW, HIGH = 3 * (DARK.start,) + 3 * (LIGHT.start,), 3 * (DARK.stop,) + 3 * (LIGHT.stop,)  # ink, then paper
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are the first outside


def random_boxes(rng: np.random.Generator, sides: Sequence[int], canvas: int = CANVAS) -> list[Box]:
    """Square boxes of the given sides at random places that do not overlap, in the order of `sides`."""
    while True:
        tries = (
            rng.integers(0, canvas - side, size=(TRIES if number else 1, 2), endpoint=True).tolist()
            for number, side in enumerate(sides)
        )
        if (boxes := place(sides, tries)) is not None:
            return boxes


def place(sides: Sequence[int], tries: Iterable[Iterable[Sequence[int]]]) -> list[Box] | None:
    """Square boxes, each at the first of its places `tries` (upper left corners) where it overlaps none before it.

    None where one has no such place; the places of those behind it are not asked for.
    """
    boxes: list[Box] = []
    for side, corners in zip(sides, tries, strict=True):
        squares = ((x, y, x + side, y + side) for x, y in corners)
        box = next((one for one in squares if not any(overlap(one, other) for other in boxes)), None)
        if box is None:
            return None
        boxes.append(box)
    return boxes


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def composite(glyphs: Sequence[NDArray[np.uint8]], boxes: Sequence[Box], canvas: int = CANVAS) -> NDArray[np.uint8]:
    """The ink of glyphs in their boxes, whose sizes they have: (canvas, canvas), 0 for paper to 255 for ink."""
    import numpy as np

    ink = np.zeros((canvas, canvas), dtype=np.uint8)
    for glyph, (x1, y1, x2, y2) in zip(glyphs, boxes, strict=True):
        ink[y1:y2, x1:x2] = glyph
    return ink


def colorize(rng: np.random.Generator, ink: NDArray[np.uint8], shades: int = 256) -> Image.Image:
    """An image of the ink (height, width; 0 to `shades` - 1), in one random dark colour on one random light paper.

    It has a palette of the shades between the two: a third of RGB's bytes to encode, and half of them to store. The
    tints are hard to see; they make it practically impossible that two examples are the same image.
    """
    from PIL import Image

    tints = rng.integers(LOW, HIGH)
    image = Image.fromarray(ink)
    image.putpalette(_ramps(shades)[tints[:3], tints[3:] - LIGHT.start].T.tobytes())
    return image


@cache
def _ramps(shades: int) -> NDArray[np.uint8]:
    """The shades from light to dark for each value of both: (dark, light, shades)."""
    import numpy as np

    dark, light = np.array(DARK)[:, None, None], np.array(LIGHT)[:, None]
    ramps: NDArray[np.float64] = np.rint(light + (dark - light) * np.linspace(0, 1, shades, dtype=np.float32))
    return ramps.astype(np.uint8)

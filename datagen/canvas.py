"""Drawing glyphs on a canvas: light paper, dark ink, nothing overlapping."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datagen.sources import SIDE

CANVAS = 84  # pixels: 3 x 3 merged patches of Qwen2.5-VL (14-pixel patches, merged 2 x 2)
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; x2 and y2 are the first outside


def scatter(rng: np.random.Generator, count: int) -> list[Box]:
    """Boxes of `count` glyphs at random places that do not overlap, ordered from left to right."""
    while True:
        corners = rng.integers(0, CANVAS - SIDE, size=(count, 2), endpoint=True)
        gaps = np.abs(corners[:, None] - corners[None]).max(axis=-1) + SIDE * np.eye(count, dtype=int)
        if gaps.min() >= SIDE:
            return [(int(x), int(y), int(x) + SIDE, int(y) + SIDE) for x, y in sorted(corners.tolist())]


def paint(rng: np.random.Generator, glyphs: list[NDArray[np.uint8]], boxes: list[Box]) -> Image.Image:
    """An RGB image of the glyphs in their boxes, in one random dark ink on one random light paper.

    The tints are hard to see; they make it practically impossible that two examples are the same image.
    """
    ink = np.zeros((CANVAS, CANVAS, 1), dtype=np.float32)
    for glyph, (x1, y1, x2, y2) in zip(glyphs, boxes, strict=True):
        ink[y1:y2, x1:x2, 0] = glyph / np.float32(255)
    paper = rng.integers(224, 255, size=3, endpoint=True).astype(np.float32)
    colour = rng.integers(0, 63, size=3, endpoint=True).astype(np.float32)
    return Image.fromarray(np.rint(paper + (colour - paper) * ink).astype(np.uint8), "RGB")


def png(image: Image.Image) -> bytes:
    """The image as PNG, at the compression level that is fastest."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

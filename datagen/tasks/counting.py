"""Digits of many sizes in an image: count those of a kind, pointing at each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.options import Option, integer_range
from datagen.rendering.compositing import Box, colorize, composite, place
from datagen.sources.mnist import DigitImages, resize
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CANVAS = 168  # pixels: 6 x 6 merged patches of Qwen2.5-VL
SIDES = (18, 21, 24, 28, 32)  # pixels, of a glyph: few, so that most glyphs have been resized before
CORNERS, TURNS = (3, 4, 5, 6), 24  # of an outline, few for the same reason
PLACES = 8  # tried for a box before all boxes are placed anew
DISTRACTORS = 4  # at most
SHADES = 16  # from paper to ink: half the time to compress, and 60% of the bytes of 256
OBJECT = re.compile(r"\{[^{}]{1,200}\}")  # one flat JSON object


def draw(rng: np.random.Generator, glyphs: DigitImages, options: Mapping[str, Any]) -> DrawnExample:
    """0 to 10 digits to be counted among up to four that are not.

    Half of the images ask for one digit, `target`, among other digits; half for all digits (`target` is null) among
    outlines that are none. `digits`, `boxes` and `glyph_ids` are of all digits in the image, `count` is
    of those asked for.
    """
    low, high = options["count"]
    count = int(rng.integers(low, high, endpoint=True))
    others = int(rng.integers(0 if count else 1, DISTRACTORS, endpoint=True))  # an empty image would occur twice
    target = int(rng.integers(10)) if rng.random() < 0.5 else None
    boxes = scattered_boxes(rng, count + others)
    if target is None:
        chosen = rng.choice(len(glyphs), size=count, replace=False).tolist()
    else:
        own, rest = glyphs.by_label[target], glyphs.by_other_label[target]
        chosen = [*rng.choice(own, count, replace=False).tolist(), *rng.choice(rest, others, replace=False).tolist()]
    sides = [right - left for left, _, right, _ in boxes]
    shapes = [glyphs.resized(glyph, side) for glyph, side in zip(chosen, sides, strict=False)]
    if target is None:
        turns = rng.integers(len(CORNERS) * TURNS, size=others).tolist()
        shapes += [outline(turn, side) for turn, side in zip(turns, sides[count:], strict=True)]
    return DrawnExample(
        image=colorize(rng, composite(shapes, boxes, CANVAS) // (256 // SHADES), SHADES),
        truth={
            "target": target,
            "count": count,
            "digits": glyphs.labels[chosen].tolist(),
            "boxes": [list(box) for box in boxes[: len(chosen)]],
            "glyph_ids": [glyphs.ids[i] for i in chosen],
        },
    )


def scattered_boxes(rng: np.random.Generator, count: int) -> list[Box]:
    """Square boxes at random places that do not overlap, in random order."""
    # The largest first: they fit better so.
    sides = sorted((SIDES[i] for i in rng.integers(len(SIDES), size=count).tolist()), reverse=True)
    free = [CANVAS + 1 - side for side in sides]
    while True:
        shares = rng.random((count, PLACES, 2)).tolist()
        tries = (
            [(int(across * room), int(down * room)) for across, down in places]
            for room, places in zip(free, shares, strict=True)
        )
        if (boxes := place(sides, tries)) is not None:
            return [boxes[i] for i in rng.permutation(count).tolist()]


@cache
def outline(number: int, side: int) -> NDArray[np.uint8]:
    """Ink (side, side) of a triangle, square, pentagon or hexagon, at one of `TURNS` turns: no digit."""
    import numpy as np
    from PIL import Image, ImageDraw

    picture = Image.new("L", (28, 28))
    corners, turn = CORNERS[number // TURNS], number % TURNS
    angles = [2 * math.pi * (turn / TURNS + i / corners) for i in range(corners)]
    points = [(14 + 11 * math.cos(angle), 14 + 11 * math.sin(angle)) for angle in angles]
    ImageDraw.Draw(picture).line([*points, points[0]], fill=255, width=2)
    return resize(np.asarray(picture), side)


def counted_digits(example: GroundTruth) -> list[tuple[str, Box]]:
    """(label, box) of every digit that is to be counted, the topmost first."""
    digits = zip(example["digits"], example["boxes"], strict=True)
    wanted = [(str(digit), tuple(box)) for digit, box in digits if example["target"] in (None, digit)]
    return sorted(wanted, key=lambda one: (one[1][1], one[1][0]))


def question(example: GroundTruth) -> str:
    """How the example is asked."""
    noun = "digits" if example["target"] is None else f"digits {example['target']}"
    return (
        f"How many {noun} are in this image? Point to each one in your reasoning, as in "
        '{"point_2d": [x, y], "label": "3"}, in pixels; the label is the digit.'
    )


def pointing_trace(example: GroundTruth) -> str:
    """The trace: a point in the middle of every counted digit."""
    points = [
        json.dumps({"point_2d": [(x1 + x2) // 2, (y1 + y2) // 2], "label": label})
        for label, (x1, y1, x2, y2) in counted_digits(example)
    ]
    return f"{' '.join(points)} That makes {len(points)}.".lstrip()


def count_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the count, as an integer."""
    return float(r1_format.read_integer(r1_format.extract_answer(message)) == example["count"])


def soft_correctness(message: str, example: GroundTruth) -> float:
    """exp(-error² / 4) of a count, which is an integer from 0 on; 0.0 for anything else."""
    given = r1_format.read_integer(r1_format.extract_answer(message))
    return 0.0 if given is None or given < 0 else math.exp(-(min(abs(given - example["count"]), 100) ** 2) / 4)


def grounding(message: str, example: GroundTruth) -> float:
    """F1 of the points and boxes in a well-formed message's reasoning, matched one to one with the counted digits.

    A point matches the digit of its label in whose box it lies, a box the one with which its intersection over union is
    above a half (the digits do not overlap, so there is at most one). Only as many points as there are digits may
    match, the first ones: each further one costs, wherever it lies.
    """
    parsed = r1_format.parse(message)
    if parsed is None:
        return 0.0
    given = [pointed for text in OBJECT.findall(parsed[0]) if (pointed := parse_location(text)) is not None]
    missing = counted_digits(example)
    total = len(given) + len(missing)
    if total == 0:
        return 1.0
    matched = 0
    for label, location in given[: len(missing)]:
        hit = next((one for one in missing if one[0] == label and _matches(location, one[1])), None)
        if hit is not None:
            missing.remove(hit)
            matched += 1
    return 2 * matched / total


@lru_cache(1024)  # hostile texts repeat one location thousands of times
def parse_location(text: str) -> tuple[str, tuple[float, ...]] | None:
    """(label, numbers) of a JSON object with two numbers as `point_2d` or four as `bbox_2d`; None for anything else."""
    if '_2d"' not in text:  # to fail is what takes json longest
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    for name, size in (("point_2d", 2), ("bbox_2d", 4)):
        numbers, label = value.get(name), value.get("label")
        if not isinstance(numbers, list) or len(numbers) != size or not isinstance(label, str):
            continue
        if all(type(number) in (int, float) and abs(number) < 1e6 for number in numbers):  # which NaN is not
            return label.strip(), tuple(map(float, numbers))
    return None


def _matches(location: tuple[float, ...], box: Box) -> bool:
    x1, y1, x2, y2 = box
    if len(location) == 2:
        return x1 <= location[0] < x2 and y1 <= location[1] < y2
    left, top, right, bottom = location
    if left >= right or top >= bottom:
        return False
    common = max(0.0, min(right, x2) - max(left, x1)) * max(0.0, min(bottom, y2) - max(top, y1))
    return common > 0.5 * ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - common)


COUNT = Task(
    name="count",
    summary="How many digits (of one kind, or all) are in this image? Point to each.",
    ask=question,
    example_answer="42",
    answer=lambda example: str(example["count"]),
    solve=pointing_trace,
    rewards={
        "format": r1_format.format_reward,
        "correctness": count_correct,
        "soft_correctness": soft_correctness,
        "grounding": grounding,
    },
)

COUNTING = DatasetSpec(
    name="counting",
    version="2",
    summary="0 to 10 handwritten digits of many sizes among distractors: how many are there of a kind, and where",
    draw=draw,
    sources=("mnist-5k", "mnist"),
    options=(Option("count", (0, 10), integer_range(0, 10), "LOW..HIGH", "Digits to be counted in an image."),),
    raw_columns={
        "target": Column("int64", "the digit that is to be counted; null for all digits"),
        "count": Column("int64", "how many there are of it: the right answer, and the difficulty"),
        "digits": Column(["int64"], "all digits in the image, those that are not counted too, in the order of `boxes`"),
        "boxes": Column([["int64"]], "where each is: x1, y1, x2, y2 in pixels from the upper left corner"),
        "glyph_ids": Column(
            ["string"], "which piece of handwriting each is, of the distractors too: the hash of its pixels"
        ),
    },
    r1_columns=("target", "count", "digits", "boxes"),
    difficulty="count",
    disjoint=("glyph_ids",),
    tasks=(COUNT,),
)

"""Digits in an image: name them in order, or add them up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from datagen.common.options import Option, integer_range
from datagen.r1_format import extract_answer, format_reward, read_integer
from datagen.rendering.compositing import colorize, composite, random_boxes
from datagen.sources.mnist import SIDE, DigitImages
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task

if TYPE_CHECKING:
    import numpy as np


def draw(rng: np.random.Generator, glyphs: DigitImages, options: Mapping[str, Any]) -> DrawnExample:
    """One to three handwritten digits at random places; `digits`, `boxes` and `glyph_ids` go from left to right."""
    low, high = options["digits"]
    count = int(rng.integers(low, high, endpoint=True))
    boxes = sorted(random_boxes(rng, [SIDE] * count))
    chosen = rng.choice(len(glyphs), size=count, replace=False).tolist()
    digits = [int(glyphs.labels[i]) for i in chosen]
    return DrawnExample(
        image=colorize(rng, composite([glyphs.pixels[i] for i in chosen], boxes)),
        truth={
            "digits": digits,
            "boxes": [list(box) for box in boxes],
            "glyph_ids": [glyphs.ids[i] for i in chosen],
            "num_digits": count,
        },
        regions={
            str(digit): [box for other, box in zip(digits, boxes, strict=True) if other == digit] for digit in digits
        },
    )


def list_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the digits as integers, lowest first, comma between them; brackets optional."""
    answer = extract_answer(message)
    if answer is None or len(answer) > 1000:
        return 0.0
    if answer.startswith("[") and answer.endswith("]"):
        answer = answer[1:-1]
    given = [read_integer(part) for part in answer.split(",")]
    return float(given == sorted(example["digits"]))


def sum_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the sum of the digits, as an integer."""
    return float(read_integer(extract_answer(message)) == sum(example["digits"]))


def reading_trace(example: GroundTruth) -> str:
    """The first sentence of every trace: which digits there are, lowest first."""
    return f"I see {', '.join(map(str, sorted(example['digits'])))}."


def additions(digits: list[int]) -> str:
    """One addition after the other, as in `3 + 8 = 11. 11 + 9 = 20.`, nothing for one digit."""
    steps = zip(digits[1:], pairwise(accumulate(digits)), strict=True)
    return " ".join(f"{before} + {digit} = {after}." for digit, (before, after) in steps)


def add_up(example: GroundTruth) -> str:
    """The trace of a sum: what is seen, then the additions."""
    return f"{reading_trace(example)} {additions(sorted(example['digits']))}".rstrip()


LIST = Task(
    name="list",
    summary="List the digits in this image, from lowest to highest.",
    ask=lambda _: "List the digits in this image, from lowest to highest.",
    example_answer="[0, 1, 2, 3]",
    answer=lambda example: str(sorted(example["digits"])),
    solve=reading_trace,
    rewards={"format": format_reward, "correctness": list_correct},
)

SUM = Task(
    name="sum",
    summary="What is the sum of the digits in this image?",
    ask=lambda _: "What is the sum of the digits in this image?",
    example_answer="42",
    answer=lambda example: str(sum(example["digits"])),
    solve=add_up,
    rewards={"format": format_reward, "correctness": sum_correct},
)

DIGITS = DatasetSpec(
    name="digits",
    version="1",
    summary="one to three handwritten digits: list them in order, add them up",
    draw=draw,
    sources=("mnist-5k", "mnist"),
    options=(Option("digits", (1, 3), integer_range(1, 3), "LOW..HIGH", "Digits in an image."),),
    raw_columns={
        "digits": Column(["int64"], "the digits in the image, in the order of `boxes`"),
        "boxes": Column([["int64"]], "where each is: x1, y1, x2, y2 in pixels from the upper left corner"),
        "glyph_ids": Column(["string"], "which piece of handwriting each is: the hash of its pixels"),
        "num_digits": Column("int64", "how many there are: the difficulty"),
    },
    r1_columns=("digits", "num_digits"),
    difficulty="num_digits",
    disjoint=("glyph_ids",),
    tasks=(LIST, SUM),
    reads=re.compile(r"(?<=I see )\d|(?<=, )\d"),
)

"""Digits in a grid, shown too coarsely to be read: look at a cell with a tool, then say what is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datagen.common.options import Option, integer_choice, integer_range
from datagen.interaction import (
    Episode,
    Interaction,
    Observation,
    decode_image,
    episode_format,
    format_call,
    use_tool,
)
from datagen.r1_format import extract_answer, read_integer
from datagen.rendering.compositing import CANVAS, colorize, composite, random_boxes
from datagen.sources.mnist import SIDE, DigitImages
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task
from datagen.tasks.digits import additions

if TYPE_CHECKING:
    import numpy as np

GRID = 3  # cells in a row and in a column, numbered from 1 on, row by row
CELLS = GRID * GRID
SCENE = GRID * CANVAS  # pixels a side
MOST = 2  # cells asked about at most
ZOOM = re.compile(r"zoom ([1-9])", re.ASCII)
USAGE = "To look at a cell, say <tool>zoom N</tool> in place of an answer."


def draw(rng: np.random.Generator, glyphs: DigitImages, options: Mapping[str, Any]) -> DrawnExample:
    """A scene of nine handwritten digits, the coarse image of it that is shown, and one or two cells to look at."""
    import numpy as np
    from PIL import Image

    low, high = options["cells"]
    asked = sorted(int(cell) + 1 for cell in rng.choice(CELLS, int(rng.integers(low, high, endpoint=True)), False))
    chosen = rng.choice(len(glyphs), size=CELLS, replace=False).tolist()
    while len({int(glyphs.labels[i]) for i in chosen}) == 1:  # there would be nothing to exchange
        chosen = rng.choice(len(glyphs), size=CELLS, replace=False).tolist()
    ink = np.zeros((SCENE, SCENE), dtype=np.uint8)
    for cell, glyph in enumerate(chosen, 1):
        x1, y1, x2, y2 = box_of(cell)
        ink[y1:y2, x1:x2] = composite([glyphs.pixels[glyph]], random_boxes(rng, [SIDE]))
    scene = colorize(rng, ink)
    coarse = Image.fromarray(ink).resize((options["coarseness"],) * 2, Image.Resampling.BOX)
    shown = coarse.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
    shown.putpalette(scene.getpalette() or [])
    grid = [int(glyphs.labels[i]) for i in chosen]
    return DrawnExample(
        image=shown,
        truth={
            "scene": scene,
            "cells": asked,
            "digits": [grid[cell - 1] for cell in asked],
            "grid": grid,
            "glyph_ids": [glyphs.ids[i] for i in chosen],
            "num_cells": len(asked),
        },
    )


def box_of(cell: int) -> tuple[int, int, int, int]:
    """Where a cell is in the scene: x1, y1, x2, y2 in pixels."""
    row, column = divmod(cell - 1, GRID)
    return column * CANVAS, row * CANVAS, (column + 1) * CANVAS, (row + 1) * CANVAS


def zoom(call: str, row: Mapping[str, Any]) -> Observation:
    """The part of the scene that is the cell N of `zoom N`; a refusal for anything else."""
    found = ZOOM.fullmatch(call)
    if found is None:
        return Observation(f"No such call: zoom 1 to zoom {CELLS}.", ok=False)
    return Observation(image=decode_image(row["scene"]).crop(box_of(int(found[1]))))


def cells_seen(episode: Episode) -> list[int]:
    """The cells that were looked at, in order, also those that were looked at twice."""
    return [int(found[1]) for call, seen in episode.calls if seen.ok and (found := ZOOM.fullmatch(call))]


def right(episode: Episode, example: GroundTruth) -> float:
    """1.0 where the last message's answer is the sum of the digits asked about, as an integer."""
    return float(read_integer(extract_answer(episode.final)) == sum(example["digits"]))


def economy(episode: Episode, example: GroundTruth) -> float:
    """Looks that were needed by calls that were made; 0.0 unless the answer is right and all that was asked was seen.

    A call earns nothing by itself.
    """
    if not right(episode, example) or not set(example["cells"]) <= set(cells_seen(episode)):
        return 0.0
    return len(example["cells"]) / len(episode.calls)


def look(example: GroundTruth) -> list[str]:
    """The calls of the trace: one cell after the other, each behind what was seen in the cell before.

    The thoughts name no cell: a small model takes the number of a cell for a digit that it saw.
    """
    thoughts = ["Look.", *(f"I see {digit}." for digit in example["digits"][:-1])]
    return [format_call(thought, f"zoom {cell}") for thought, cell in zip(thoughts, example["cells"], strict=True)]


def conclude(example: GroundTruth) -> str:
    """The trace of the last message: the digit seen last, then all of them, lowest first, and their additions."""
    digits = sorted(example["digits"])
    seen = f"I see {example['digits'][-1]}."
    return seen if len(digits) == 1 else f"{seen} {', '.join(map(str, digits))}. {additions(digits)}"


def swap_cells(rng: np.random.Generator, row: GroundTruth, options: Mapping[str, Any]) -> DrawnExample:
    """The row with one cell that is asked about exchanged with another one, which shows another digit.

    The image that is shown stays as it is: what is exchanged is seen by the tool alone.
    """
    grid, asked = list(row["grid"]), row["cells"]
    pairs = [
        (one, other)
        for one in asked
        for other in range(1, CELLS + 1)
        if other not in asked and grid[one - 1] != grid[other - 1]
    ]
    one, other = pairs[int(rng.integers(len(pairs)))]
    grid[one - 1], grid[other - 1] = grid[other - 1], grid[one - 1]
    scene = decode_image(row["scene"])
    swapped = scene.copy()
    swapped.paste(scene.crop(box_of(other)), box_of(one))
    swapped.paste(scene.crop(box_of(one)), box_of(other))
    truth = {"scene": swapped, "grid": grid, "digits": [grid[cell - 1] for cell in asked]}
    return DrawnExample(decode_image(row["image"]), truth)


INTERACTION = Interaction(use_tool(zoom), MOST + 2, look, USAGE)  # one call to spare
REWARDS = {"format": episode_format, "correctness": right, "economy": economy}

CELL = Task(
    name="cell",
    summary="Which digit is in cell 5? (after a look at it)",
    ask=lambda example: f"Which digit is in cell {example['cells'][0]}?",
    example_answer="42",
    answer=lambda example: str(sum(example["digits"])),
    solve=conclude,
    rewards=REWARDS,
    applies_to=lambda example: len(example["cells"]) == 1,
    interaction=INTERACTION,
)

CELL_SUM = replace(
    CELL,
    name="cells",
    summary="What is the sum of the digits in cells 2 and 6? (after a look at each)",
    ask=lambda example: f"What is the sum of the digits in cells {' and '.join(map(str, example['cells']))}?",
    applies_to=lambda example: len(example["cells"]) > 1,
)

ZOOM_DATASET = DatasetSpec(
    name="zoom",
    version="2",
    summary="nine handwritten digits, too coarse to be read: look at cells with a tool, say or add what is in them",
    draw=draw,
    sources=("mnist-5k", "mnist"),
    options=(
        Option("cells", (1, MOST), integer_range(1, MOST), "LOW..HIGH", "Cells asked about."),
        Option("coarseness", 9, integer_choice(9, 12, 18, 36), "9, 12, 18 or 36", "Pixels a side of what is shown."),
    ),
    raw_columns={
        "scene": Column("image", f"the whole scene, {SCENE} x {SCENE} pixels, which only the tool shows"),
        "cells": Column(["int64"], "the cells asked about, lowest first; 1 to 9, row by row"),
        "digits": Column(["int64"], "the digits in them"),
        "grid": Column(["int64"], "the digits of all nine cells"),
        "glyph_ids": Column(["string"], "which piece of handwriting each cell shows: the hash of its pixels"),
        "num_cells": Column("int64", "how many cells are asked about: the difficulty"),
    },
    r1_columns=("scene", "cells", "digits", "grid", "num_cells"),
    difficulty="num_cells",
    disjoint=("glyph_ids",),
    tasks=(CELL, CELL_SUM),
    counterfactual=swap_cells,
    exchanged="cells",
    notes="""\
A message calls the tool with `<tool>zoom 5</tool>`, and gets the image of cell 5, 84 x 84 pixels of `scene`. `turns`
are the messages of the trace before `solution`. The rewards judge the whole episode, and none pays for a call.

The image that is shown gives something away: a reader by 15 nearest neighbours names 23.4% of its digits at coarseness
9, 22.7% at 12, 27.3% at 18 and 39.9% at 36, and the most frequent digit alone 8.0% (n = 1,800;
`python -m benchmarks.zoom_leak`).""",
)

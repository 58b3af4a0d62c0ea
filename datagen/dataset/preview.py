"""Examples of a dataset as one picture."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datagen import r1_format
from datagen.common.files import atomic_path
from datagen.dataset.reader import BuiltDataset
from datagen.environment import trace_of
from datagen.interaction import question_images
from datagen.registry import find_task

PICTURE = 168  # pixels, of the longer side of an example's images
WIDTH, COLUMNS, MARGIN, LINE = 560, 2, 10, 18
WRAP = 52  # characters a line beside the picture


def contact_sheet(built: BuiltDataset, split: str, count: int) -> Image.Image:
    """The first `count` questions of a split, each with its images, question, answer and solution.

    Of a task of several turns the solution is the whole episode; what came back in it stands below the image.
    """
    rows = built.questions(split)
    examples = [_example(row) for row in rows.select(range(min(count, len(rows))))]
    heights = [max(one.height for one in examples[i : i + COLUMNS]) for i in range(0, len(examples), COLUMNS)]
    sheet = Image.new("RGB", (WIDTH * COLUMNS, sum(heights)), "white")
    for position, example in enumerate(examples):
        line, column = divmod(position, COLUMNS)
        sheet.paste(example, (WIDTH * column, sum(heights[:line])))
    return sheet


def _example(row: Mapping[str, Any]) -> Image.Image:
    question = row["prompt"][-1]["content"].rpartition("\n")[0]  # without the instruction, which is always the same
    episode = trace_of(find_task(row["task"]), row)
    parts = [
        (f"{row['task']}   {row['id']}", "#6b7280"),
        (question, "#111827"),
        *((r1_format.completion_of(message), "#1d4ed8") for message in episode.messages),
        (f"answer: {row['answer']}", "#047857"),
    ]
    lines = [
        (line, colour)
        for text, colour in parts
        for line in [piece for part in text.splitlines() for piece in textwrap.wrap(part, WRAP) or [""]]
    ]
    shown = [*question_images(row), *(seen.image for seen in episode.observations if seen.image is not None)]
    pictures = [_scaled(picture) for picture in shown]
    height = MARGIN + max(sum(picture.height + MARGIN for picture in pictures), LINE * len(lines) + MARGIN)
    example = Image.new("RGB", (WIDTH, height), "white")
    top = MARGIN
    for picture in pictures:
        example.paste(picture, (MARGIN, top))
        top += picture.height + MARGIN
    pen, font = ImageDraw.Draw(example), ImageFont.load_default(13)
    for number, (line, colour) in enumerate(lines):
        pen.text((PICTURE + 2 * MARGIN, MARGIN + LINE * number), line, colour, font)
    return example


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture with its longer side `PICTURE` pixels long."""
    scale = PICTURE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def save(sheet: Image.Image, path: Path) -> None:
    """Write the picture as PNG, in one step."""
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def show(sheet: Image.Image, width: int = 100) -> None:
    """Show a picture, `width` characters wide, on a terminal: by Sixel, Kitty or coloured blocks. Else do nothing."""
    if sys.stdout.isatty():
        from rich import print as rich_print
        from textual_image.renderable import Image as TerminalImage

        rich_print(TerminalImage(sheet, width=width))

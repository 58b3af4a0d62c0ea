"""Examples of a dataset as one picture."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datagen import r1
from datagen.dataset import BuiltDataset
from datagen.files import replacing

PICTURE = 168  # pixels, of an example's image: twice its size
WIDTH, HEIGHT, COLUMNS, MARGIN = 560, 188, 2, 10
WRAP = 52  # characters a line beside the picture


def contact_sheet(built: BuiltDataset, split: str, count: int) -> Image.Image:
    """The first `count` questions of a split, each with its image, question, answer and solution."""
    rows = built.questions(split)
    rows = rows.select(range(min(count, len(rows))))
    sheet = Image.new("RGB", (WIDTH * COLUMNS, HEIGHT * -(-len(rows) // COLUMNS)), "white")
    for position, row in enumerate(rows):
        corner = (WIDTH * (position % COLUMNS), HEIGHT * (position // COLUMNS))
        _draw_example(sheet, corner, row)
    return sheet


def _draw_example(sheet: Image.Image, corner: tuple[int, int], row: Mapping[str, Any]) -> None:
    x, y = corner[0] + MARGIN, corner[1] + MARGIN
    sheet.paste(row["image"].resize((PICTURE, PICTURE), Image.Resampling.NEAREST), (x, y))
    pen = ImageDraw.Draw(sheet)
    question = row["prompt"][-1]["content"].splitlines()[0]
    parts = [
        (f"{row['task']}   {row['id']}", "#6b7280"),
        (question, "#111827"),
        (r1.completion_of(row["solution"]), "#1d4ed8"),
        (f"answer: {row['answer']}", "#047857"),
    ]
    font = ImageFont.load_default(13)
    for text, colour in parts:
        for line in [piece for part in text.splitlines() for piece in textwrap.wrap(part, WRAP) or [""]]:
            pen.text((x + PICTURE + MARGIN, y), line, colour, font)
            y += 18
        y += 5


def save(sheet: Image.Image, path: Path) -> None:
    """Write the picture as PNG, in one step."""
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def show(sheet: Image.Image) -> None:
    """Show the picture where standard output is a terminal that can show images (Sixel, Kitty, or coloured blocks)."""
    if sys.stdout.isatty():
        from rich import print as rich_print
        from textual_image.renderable import Image as TerminalImage

        rich_print(TerminalImage(sheet, width=100))

"""Images and tables as somebody has them: photographs, so to say, of shapes, with one fault of each kind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tests.processes import invoke

COLOURS = ("red", "green", "blue", "black")
COUNT, ROTATED, BROKEN, COPY = 200, 7, 11, 150  # of the rows; COPY shows what row 3 does
TWO = 20  # the row that shows two images where a row may: also that of the next row


def picture(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A coloured box on noise, which is another in every picture."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(120, 255, (6, 8, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    x1, y1, x2, y2 = box(number)
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[number % 4])
    return image


def box(number: int) -> tuple[int, int, int, int]:
    """Where the box of a picture is."""
    x, y = 4 + 7 * number % 60, 3 + 5 * number % 40
    return x, y, x + 20, y + 18


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated(image: Image.Image) -> bytes:
    """A JPEG that is stored turned, and says so in its EXIF data."""
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter to the right
    return encoded(image.rotate(90, expand=True), "JPEG", quality=95, exif=exif)


def contents(count: int = COUNT) -> list[bytes]:
    """The files of all pictures, with the faults."""
    files = [encoded(picture(number)) for number in range(count)]
    files[ROTATED] = rotated(picture(ROTATED))
    files[BROKEN] = files[BROKEN][:200]
    files[COPY] = files[3]
    return files


def rows(count: int = COUNT) -> list[dict[str, Any]]:
    """A row a picture, without it."""
    return [
        {
            "question": "Which colour has the box?",
            "colour": COLOURS[(3 if number == COPY else number) % 4],
            "place": [{"bbox_2d": list(box(3 if number == COPY else number)), "label": "box"}],
            "why": "I look at the box. Its colour is clear.",
            "level": number % 3,
            "album": f"album {number // 5}",
            "part": "test" if number == COPY or number >= 160 else "train",
        }
        for number in range(count)
    ]


def shown(number: int, twos: Container[int] = (TWO,)) -> list[int]:
    """The pictures of a row that may show several: `twos` also show that of the next row."""
    return [number, number + 1] if number in twos else [number]


def write_csv(folder: Path, count: int = COUNT, twos: Container[int] = (TWO,)) -> Path:
    """A CSV beside a folder of pictures."""
    (folder / "photos").mkdir(parents=True)
    table = folder / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        found = rows(count)
        writer.writerow(["file", "files", *found[0]])
        for number, (content, row) in enumerate(zip(contents(count), found, strict=True)):
            (folder / "photos" / f"{number:03}.png").write_bytes(content)
            files = [f"photos/{one:03}.png" for one in shown(number, twos)]
            writer.writerow([files[0], json.dumps(files), *({**row, "place": json.dumps(row["place"])}.values())])
    return table


def write_parquet(path: Path, count: int = COUNT) -> Path:
    """A Parquet file with the pictures in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": None} for content in contents(count)]
    lists = [[images[one] for one in shown(number)] for number in range(count)]
    columns = {name: [row[name] for row in rows(count)] for name in rows(1)[0]}
    pq.write_table(pa.table({"image": images, "images": lists, **columns}), path, row_group_size=64)
    return path


def write_classes(folder: Path, count: int = COUNT, *, splits: bool = False) -> Path:
    """A folder of pictures by colour, perhaps by split before that."""
    for number, (content, row) in enumerate(zip(contents(count), rows(count), strict=True)):
        place = folder / row["part"] / row["colour"] if splits else folder / row["colour"]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03}.png").write_bytes(content)
    return folder


def import_(source: Path | str, out: Path, *words: str) -> CompletedProcess[str]:
    """Run `r1vlm-data import` with one worker."""
    return invoke("datagen.cli", "import", str(source), *words, "--out", out, "--workers", "1")


def rows_of(folder: Path, table: str = "raw") -> dict[str, list[dict[str, Any]]]:
    """The rows of each split."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / table).glob("*.parquet")):
        found.setdefault(path.name.partition("-")[0], []).extend(pq.ParquetFile(path).read().to_pylist())
    return found


def write_pairs(folder: Path, count: int = COUNT, *words: str) -> Path:
    """A dataset in which every second question shows two images, with solutions."""
    table = write_csv(folder / "csv", count, twos=range(0, count, 2))
    asked = ("--images", "files", "--question", "question", "--answer", "colour", "--judge", "exact")
    done = import_(table, folder / "pairs", *asked, "--solution", "why", *words)
    assert done.returncode == 0, done.stderr
    return folder / "pairs"

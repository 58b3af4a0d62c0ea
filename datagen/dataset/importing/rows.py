"""One row of a table: its question, its right answer and its images, checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError, suggest
from datagen.common.untrusted import SURROGATE
from datagen.dataset.importing.config import ImportConfig
from datagen.dataset.importing.images import BrokenImageError
from datagen.dataset.importing.sources import SPLIT_NAMES, Source
from datagen.dataset.shards import make_questions
from datagen.schema import MOST_IMAGES
from datagen.sources.split import SPLITS
from datagen.task import score
from datagen.tasks.judges import (
    LONGEST,
    UnreadableError,
    as_written,
    read_json,
    read_number,
    read_places,
    split_solution,
)

UNWRITTEN = (bytes, list, dict)  # what is no text or number
OUTSIDE = "is outside the table's folder"


class BrokenRowError(ValueError):
    """A row that can't be used; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """What a row says, apart from its images; `group` and `split` are None where the table has none."""

    question: str
    right: str
    trace: str
    choices: list[str]
    difficulty: float
    group: str | None
    split: str | None


def check_columns(config: ImportConfig, source: Source) -> list[str]:
    """The columns of the table that an import reads.

    Raises:
        UserError: where one is not there, or the question is a word that is no column.
    """
    for name, column in config.columns().items():
        if column not in source.columns:
            raise UserError(
                f"--{name} {column}: there is no such column in {config.source}: "
                f"{suggest(column, list(map(str, source.columns)))}"
            )
    if config.question not in source.columns and len(config.question.split()) < 2:
        raise UserError(
            f"--question {config.question}: there is no such column in {config.source}, and a question of your own has "
            f"several words: {suggest(config.question, list(map(str, source.columns)))}"
        )
    wanted = [*config.columns().values(), config.question]
    return [column for column in source.columns if column in wanted]


def prepare(config: ImportConfig, row: Mapping[str, Any]) -> Prepared:
    """What a row says.

    Raises:
        BrokenRowError: where something is missing, or the judge can't read the answer.
    """
    choices = _choices(row[config.choices]) if config.choices is not None else []
    question = _text(row, config.question, "question") if config.question in row else config.question
    listed = [f"{chr(ord('A') + number)}. {choice}" for number, choice in enumerate(choices)]
    answer = row[config.answer]
    if _is_missing(answer) or answer == "":
        raise BrokenRowError("it has no answer")
    if isinstance(answer, bytes):
        raise BrokenRowError("its answer is bytes, and no text or number")
    try:
        right = config.judged.prepare(answer, choices)
    except UnreadableError as error:
        raise BrokenRowError(f"the judge {config.judge} can't read its answer: {error}") from error
    if SURROGATE.search("".join([right, *choices])):
        raise BrokenRowError("its answer or a choice holds half of a surrogate pair")
    if len(right) > LONGEST or any(tag in right for tag in ("<answer>", "</answer>", "<think>", "</think>")):
        raise BrokenRowError(f"its answer is longer than {LONGEST} characters, or has tags of the R1 format in it")
    trace = _text(row, config.solution, "solution") if config.solution is not None else ""
    split = _text(row, config.split, "split").strip().lower() if config.split is not None else None
    split = SPLIT_NAMES.get(split, split) if split is not None else None
    if split is not None and split not in SPLITS:
        raise BrokenRowError(f"its split is none of {', '.join(SPLITS)}")
    return Prepared(
        question="\n".join([question, *listed]),
        right=right,
        trace=split_solution(trace, right),
        choices=choices,
        difficulty=_number(row[config.difficulty]) if config.difficulty is not None else 0.0,
        group=_text(row, config.group, "group") if config.group is not None else None,
        split=split,
    )


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: pandas and JSON may have NaN there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(row: Mapping[str, Any], column: str, what: str) -> str:
    value = row[column]
    text = "" if _is_missing(value) else str(value)
    if not text.strip():
        raise BrokenRowError(f"it has no {what}")
    if isinstance(value, bytes):
        raise BrokenRowError(f"its {what} is bytes, and no text")
    if SURROGATE.search(text):
        raise BrokenRowError(f"its {what} holds half of a surrogate pair")
    return text


def _choices(value: Any) -> list[str]:
    """The texts of choices: of a list, or of a list in JSON."""
    texts = read_json(value) if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or any(_is_missing(one) or isinstance(one, UNWRITTEN) for one in texts):
        raise BrokenRowError("its choices are no list of texts")
    return [as_written(text) for text in texts]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BrokenRowError("its difficulty is no number")
    return number


def image_values(config: ImportConfig, row: Mapping[str, Any]) -> list[Any]:
    """The images of a row, as `read_image` takes them.

    Raises:
        BrokenRowError: where several are wanted, and there is no list of 1 to `MOST_IMAGES`.
    """
    if config.images is None:
        return [row[config.image]]
    value = row[config.images]
    values = read_json(value) if isinstance(value, str) else value
    if not isinstance(values, list):
        raise BrokenRowError("its images are no list")
    if not 0 < len(values) <= MOST_IMAGES:
        raise BrokenRowError(f"its list of images has {len(values)}, and 1 to {MOST_IMAGES} are possible")
    return values


def read_images(config: ImportConfig, row: Mapping[str, Any], root: Path | None) -> list[bytes]:
    """The bytes of each image of a row.

    Raises:
        BrokenRowError: as `image_values` and `read_image`; it names the image where there are several.
    """
    contents = []
    for number, value in enumerate(image_values(config, row), start=1):
        with naming_image(config, number):
            contents.append(read_image(value, root))
    return contents


@contextmanager
def naming_image(config: ImportConfig, number: int) -> Iterator[None]:
    """Inside, what is wrong with an image is said of the image of that number, where a row has several."""
    try:
        yield
    except (BrokenRowError, BrokenImageError) as error:
        if config.images is None:
            raise
        raise BrokenRowError(str(error).replace("its image", f"its image {number}", 1)) from error


def read_image(value: Any, root: Path | None) -> bytes:
    """The bytes of an image: they are in the table, or in a file in its folder.

    Raises:
        BrokenRowError: where there is none, or it is `OUTSIDE`.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise BrokenRowError("its image is missing")
    if root is None:
        raise BrokenRowError(f"its image {OUTSIDE}")
    path = (root / value).resolve()
    if not path.is_relative_to(root):
        raise BrokenRowError(f"its image {OUTSIDE}")
    try:
        if not path.is_file():
            raise BrokenRowError("its image is not there")
        return path.read_bytes()
    except OSError as error:
        raise BrokenRowError(f"its image can't be read ({error.strerror})") from error


@dataclass(frozen=True)
class Shown:
    """An image as a row shows it: its bytes, what stands for its pixels, its width and height."""

    content: bytes
    pixels: str
    size: tuple[int, int]


def raw_row(
    config: ImportConfig, prepared: Prepared, images: Sequence[Shown], number: int = 0, first: int = 0
) -> dict[str, Any]:
    """Row `number` of the table, with its images, as a row of `raw`; `first` is the first row that has one of them."""
    value = read_number(prepared.right)
    stored = [{"bytes": image.content, "path": None} for image in images]
    pixels = [image.pixels for image in images]
    several = config.images is not None
    return {
        "id": row_id(config, number),
        config.spec.image_column: stored if several else stored[0],
        "image_id": row_id(config, first),
        "pixels": pixels if several else pixels[0],
        "group": pixels[0] if prepared.group is None else prepared.group,
        "question": prepared.question,
        "right": prepared.right,
        "trace": prepared.trace,
        "choices": prepared.choices,
        "tolerance": config.allowed(value[0] if value is not None else 0.0, max(images[0].size)),
        "difficulty": prepared.difficulty,
    }


def row_id(config: ImportConfig, number: int) -> str:
    """The id of a row of `raw`: the number of the row in the table, from 0 on."""
    return f"{config.spec.name}-{number:08d}"


def check_row(config: ImportConfig, raw: Mapping[str, Any], size: Sequence[int]) -> None:
    """Check what only image and question together tell: places are in the image, the solution earns full marks.

    Raises:
        BrokenRowError: where that is not so.
    """
    if config.judge in ("boxes", "points"):
        for place in read_places(raw["right"]) or ():
            if place is not None and not all(0 <= one <= size[at % 2] for at, one in enumerate(place.numbers)):
                raise BrokenRowError("its boxes or points are outside the image, which has to be upright")
    for question in make_questions(config.spec, [raw]):
        if set(score(config.spec.tasks[0], question["solution"], question).values()) != {1.0}:
            raise BrokenRowError("its solution does not earn full marks: it has tags of the R1 format in its reasoning")

"""What determines an import."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from datagen.common.errors import UserError, suggest
from datagen.task import DatasetSpec
from datagen.tasks.judges import JUDGES, OWN, PLACES, Judge, own_name

SOURCE = "own-images"
TOLERANT = ("number", "points")  # judges that let an answer be a little off


class ImportConfig(BaseModel):
    """A dataset of your own images. Each field is the flag of that name.

    Raises:
        UserError: for an unknown judge, and values that no import can have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A table (CSV, TSV, JSON lines, Parquet), a folder with one or with a folder a class, or USER/NAME on the Hub."""
    judge: str
    """How answers are judged: one of `JUDGES`."""
    answer: str
    """The column of right answers."""
    question: str
    """The column of questions, or the one question about every image."""
    image: str = "image"
    """The column of images: paths in the table's folder, or the images themselves."""
    images: str | None = None
    """In place of `image` the column of lists of images, where a question shows several."""
    choices: str | None = None
    """The column of the choices' texts."""
    solution: str | None = None
    """The column of solutions: reasoning, or full messages in the R1 format."""
    group: str | None = None
    """The column of what may not be in two splits."""
    difficulty: str | None = None
    """The column of numbers by which an evaluation is sliced and a curriculum ordered."""
    split: str | None = None
    """The column that says train, validation or test; None: the split follows from a hash of the image, or group."""
    subset: str | None = None
    """Which of several configs of a dataset on the Hub."""
    tolerance: str = "0"
    """How far off a number or a point may be; with %, a share of the number or of the image's longer side."""
    shares: tuple[int, int, int] = (80, 10, 10)
    """Percentages of train, validation and test."""
    near: int = Field(3, ge=-1, le=16)
    """Bits of 64 in which the perceptual hashes of near-duplicates differ at most; -1: none are looked for."""
    max_broken: float = Field(0.01, ge=0, le=1)
    """The share of rows that may be left out because they can't be used."""
    drop_duplicates: bool = False
    """Leave out of train what is in validation or test too, and of validation what is in test."""
    license: str = "unknown"
    """Of the images, as the Hub names licences."""

    @field_validator("judge")
    @classmethod
    def _check_judge(cls, judge: str) -> str:
        if judge not in JUDGES:
            raise UserError(f"there is no judge {judge!r}: {suggest(judge, list(JUDGES))}")
        return judge

    @field_validator("tolerance")
    @classmethod
    def _check_tolerance(cls, tolerance: str) -> str:
        try:
            number = float(tolerance.removesuffix("%"))
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UserError(f"--tolerance {tolerance} is neither a number such as 0.5 nor a share such as 5%")
        return tolerance

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, shares: tuple[int, int, int]) -> tuple[int, int, int]:
        if sum(shares) != 100 or min(shares) < 1:
            written = "/".join(map(str, shares))
            raise UserError(f"--splits {written} must be three whole percentages of at least 1 that add up to 100")
        return shares

    @model_validator(mode="after")
    def _check_use_of_tolerance(self) -> Self:
        if self.judge not in TOLERANT and float(self.tolerance.removesuffix("%")):
            raise UserError(
                f"--tolerance {self.tolerance} is for --judge {' and '.join(TOLERANT)}, and {self.judge} allows none: "
                "leave it out, or take one of these"
            )
        return self

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if self.images is not None and "image" in self.model_fields_set:
            raise UserError("--image names one image a question, and --images several: leave out one of them")
        if self.images is not None and self.judge in PLACES:
            raise UserError(
                f"--images is not possible with --judge {self.judge}, whose answers are pixels of the only image: "
                "name one image a question with --image"
            )
        return self

    @property
    def spec(self) -> DatasetSpec:
        """The dataset of that judge."""
        return OWN[own_name(self.judge, several=self.images is not None)]

    @property
    def judged(self) -> Judge:
        """The judge."""
        return JUDGES[self.judge]

    def columns(self) -> dict[str, str]:
        """The columns of the table that are named, by what they are for; `question` may be a text instead."""
        image = "image" if self.images is None else "images"
        names = (image, "answer", "choices", "solution", "group", "difficulty", "split")
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    def allowed(self, size: float, longer_side: float) -> float:
        """The tolerance of an answer of that size, about an image whose longer side has that many pixels."""
        number = float(self.tolerance.removesuffix("%"))
        if not self.tolerance.endswith("%"):
            return number
        return number / 100 * (longer_side if self.judge == "points" else abs(size))

    def as_json(self) -> dict[str, Any]:
        """The settings that are published with the dataset: of where it was made, the last name alone."""
        unused = "images" if self.images is None else "image"
        settings = self.model_dump(mode="json", exclude={"shares", "license", unused})
        return settings | {"source": Path(self.source).name}

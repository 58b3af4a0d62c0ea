"""Results of other evaluations, shown beside this one: what supervised training on the same traces reaches, say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from datagen.common.errors import UserError
from datagen.common.formatting import visible
from datagen.common.untrusted import Line, Word, check_shape, read_object

Row = dict[str, Any]
"""`name`, `accuracy`, `accuracy_ci95`, `n`, `shown` (a sentence or None), and `other_questions`, a bool."""

ADVICE = "name a results.json of r1vlm-eval with --beside"
Share = Annotated[float, Field(ge=0, le=1)]
QUESTION_KEYS = ("dataset_fingerprint", "split", "tasks", "n")  # results that agree in them are on the same questions


class ExternalResult(BaseModel):
    """What is read of a result."""

    model_config = ConfigDict(strict=True)

    name: Line | None = None
    accuracy: Share
    accuracy_ci95: Annotated[list[Share], Field(min_length=2, max_length=2)]
    n: Annotated[int, Field(ge=1)]
    shown: Line | None = None
    dataset_fingerprint: Word | None = None
    split: Word | None = None
    tasks: list[Word] | None = None


def read_external_result(path: Path) -> Row:
    """The row of a result file that r1vlm-eval wrote; named after the file, or its folder where all are `results`.

    Raises:
        UserError: where there is no such file, or it is no result.
    """
    if not path.is_file():
        raise UserError(f"there is no result file {path}: {ADVICE}")
    name = path.resolve().parent.name if path.stem == "results" else path.stem
    return external_result(read_object(path, ADVICE), visible(name), str(path))


def external_result(value: Any, name: str, source: str) -> Row:
    """A row from an object with the keys of a result. `name` is what it is called unless it says so itself.

    Raises:
        UserError: where a number is missing or impossible; it names the file, `source`.
    """
    result = check_shape(value, ExternalResult, f"{source} holds no result", ADVICE)
    return {"name": name, "shown": None, **result.model_dump(exclude_none=True)}


def mark_other_questions(rows: list[Row], result: Mapping[str, Any]) -> list[Row]:
    """The rows, each told whether it was scored on other questions than `result`, as far as it says."""
    return [
        {**row, "other_questions": any(row.get(key, result[key]) != result[key] for key in QUESTION_KEYS)}
        for row in rows
    ]

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
QUESTION_KEYS = ("dataset_fingerprint", "split", "tasks")


class ExternalResult(BaseModel):
    """What is read of a result."""

    model_config = ConfigDict(strict=True)

    name: Line | None = None
    accuracy: Share
    accuracy_ci95: Annotated[list[Share], Field(min_length=2, max_length=2)]
    n: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)] = 1
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
    return {"name": name, "shown": None, **result.model_dump(exclude_none=True, exclude_defaults=True)}


def asked_the_same(row: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether two results are on the same questions, however often asked, as far as the first one says."""
    counts = [one["n"] // one.get("samples", 1) for one in (row, result)]
    return counts[0] == counts[1] and all(row.get(key, result.get(key)) == result.get(key) for key in QUESTION_KEYS)


def mark_other_questions(rows: list[Row], result: Mapping[str, Any]) -> list[Row]:
    """The rows, each told whether it was scored on other questions than `result`, as far as it says."""
    return [{**row, "other_questions": not asked_the_same(row, result)} for row in rows]

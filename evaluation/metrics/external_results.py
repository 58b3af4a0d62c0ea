"""Results of other evaluations, shown beside this one: what supervised training on the same traces reaches, say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError

Row = dict[str, Any]
"""`name`, `accuracy`, `accuracy_ci95`, `n`, `shown` (a sentence or None), and `other_questions`, a bool."""

QUESTION_KEYS = ("dataset_fingerprint", "split", "tasks", "n")  # results that agree in them are on the same questions


def read_external_result(path: Path) -> Row:
    """The row of a result file that r1vlm-eval wrote; named after the file, or its folder where all are `results`.

    Raises:
        UserError: where there is no such file, or it is no result.
    """
    if not path.is_file():
        raise UserError(f"there is no result file {path}: name a results.json of r1vlm-eval with --beside")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: name a results.json of r1vlm-eval with --beside") from error
    name = path.resolve().parent.name if path.stem == "results" else path.stem
    return external_result(value, name, str(path))


def external_result(value: Any, name: str, source: str) -> Row:
    """A row from an object with the keys of a result. `name` is what it is called unless it says so itself.

    Raises:
        UserError: where a number is missing or impossible; it names the file, `source`.
    """
    if not isinstance(value, dict):
        raise UserError(f"{source} holds no result: an object with accuracy, accuracy_ci95 and n is wanted")
    interval, n, shown = value.get("accuracy_ci95"), value.get("n"), value.get("shown")
    numbers = [value.get("accuracy"), *(interval if isinstance(interval, list) else [])]
    if len(numbers) != 3 or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in numbers):
        raise UserError(f"{source} holds no result: its accuracy and accuracy_ci95 are not numbers from 0 to 1")
    if not isinstance(n, int) or n < 1:
        raise UserError(f"{source} holds no result: its n is not a number of questions")
    return {
        **{key: value[key] for key in QUESTION_KEYS if key in value},
        "name": str(value.get("name", name)),
        "accuracy": numbers[0],
        "accuracy_ci95": interval,
        "shown": shown if isinstance(shown, str) else None,
    }


def mark_other_questions(rows: list[Row], result: Mapping[str, Any]) -> list[Row]:
    """The rows, each told whether it was scored on other questions than `result`, as far as it says."""
    return [
        {**row, "other_questions": any(row.get(key, result[key]) != result[key] for key in QUESTION_KEYS)}
        for row in rows
    ]

"""Files of completions: JSON lines `{"id": …, "completion": …}`, each with a full assistant message."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from datagen.errors import UserError
from datagen.files import write_text


def write_completions(path: Path, ids: Sequence[str], messages: Sequence[str]) -> None:
    """Write a message for each id, in one step.

    As ASCII: a message may hold any code point JSON can name, and half a surrogate pair has no UTF-8.
    """
    pairs = zip(ids, messages, strict=True)
    write_text(path, "".join(json.dumps({"id": name, "completion": text}) + "\n" for name, text in pairs))


def read_completions(path: Path, wanted: Sequence[str], known: Collection[str], where: str) -> list[str]:
    """The messages for the ids `wanted`, in their order. Lines for other `known` ids are left out.

    Raises:
        UserError: for a line that is no completion, an id that is not `known` (the questions of `where`) or
            comes twice, or a wanted id that is missing.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, message = _parse(line, f"line {number} of {path}")
        if name not in known:
            raise UserError(f"line {number} of {path} answers {name!r}, which is no question of {where}")
        if name in found:
            raise UserError(f"line {number} of {path} answers {name!r} a second time: keep one of them")
        found[name] = message
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path} answers {len(wanted) - len(missing)} of {len(wanted)} questions, {len(missing)} missing, "
            f"the first of them {missing[0]!r}: complete it, or take fewer questions with --task or --limit"
        )
    return [found[name] for name in wanted]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")  # not splitlines: a message may hold U+2028
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: name a .jsonl file of completions") from error


def _parse(line: str, where: str) -> tuple[str, str]:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # a ValueError also for an integer of too many digits
        raise UserError(f"{where} is not JSON: write one object with 'id' and 'completion' a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} is not an object with 'id' and 'completion'")
    for key in ("id", "completion"):
        if not isinstance(value.get(key), str):
            raise UserError(f"{where} has no {key!r} that is a text")
    return value["id"], value["completion"]

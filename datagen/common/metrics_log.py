"""Reading a run's `metrics.jsonl`: one line for each logged step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datagen.common.untrusted import parse_json


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The logged steps in the order of the file, each with an integer `step`; none where there is no such file.

    Lines that can't be parsed are left out: a running process may be writing the last one, and a killed one may have
    left half a line. A resumed run logs steps again: of two entries for one step, the later one counts.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [entry for line in lines if (entry := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = parse_json(line, ours=False)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None

"""The tables of benchmarks/RESULTS.md and of the documentation are what `benchmarks/results/` has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import demo, look_ups, rivals, sampling, shared_prefix

RESULTS = Path(sampling.__file__).parent / "results"
PAGE = (RESULTS.parent / "RESULTS.md").read_text(encoding="utf-8")


def kept(name: str) -> Any:
    """What a benchmark kept."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def missing(lines: Iterable[str], page: str = PAGE) -> list[str]:
    """The lines that a page does not have."""
    return sorted(set(lines) - set(page.splitlines()))


def test_the_demos() -> None:
    files = sorted(RESULTS.glob("demo-*.json"))
    assert len(files) >= 6
    for file in files:
        assert demo.table(kept(file.stem)) in PAGE, file.name


def test_the_rivals() -> None:
    runs = kept("rivals-digits")
    assert json.loads(json.dumps(rivals.summarize(runs["runs"]))) == runs["summary"]
    assert [table for table in rivals.tables(runs["summary"]) if table not in PAGE] == []


def test_the_ways_of_sampling() -> None:
    for name in ("sampling-list", "sampling-digits"):
        assert missing(map(sampling.row, kept(name))) == []


def test_the_heads_that_look_up() -> None:
    play = (RESULTS.parents[1] / "docs" / "play.md").read_text(encoding="utf-8")
    rows = [look_ups.row(one) for one in kept("look-ups")]
    assert missing(rows) == missing(rows, play) == []


def test_shared_prefixes() -> None:
    results = kept("shared-prefix")
    assert shared_prefix.table(results) in PAGE
    guide = (RESULTS.parents[1] / "docs" / "shared-prefix.md").read_text(encoding="utf-8")
    assert shared_prefix.short_table(results) in guide

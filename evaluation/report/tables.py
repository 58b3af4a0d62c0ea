"""The results as a small table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datagen.common.formatting import percent
from evaluation.metrics.external_results import Row, asked_the_same
from evaluation.metrics.scoring import ACCURACY

COUNTS = {"calls": "calls", "refused_calls": "refused"}
TURNS = {**COUNTS, "looked": "looked", "mended": "mended", "spoiled": "spoiled"}
"""The columns of tasks of several turns, by what `turn_figures` calls them; all but `COUNTS` are shares."""
OF_RIGHT = "  of what is right as asked"


def accuracy_text(accuracy: float, interval: Sequence[float]) -> str:
    """An accuracy with its 95% interval, in percent."""
    return f"{percent(accuracy):>6} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def shown_rewards(rewards: Iterable[str]) -> list[str]:
    """The rewards that stand in a table beside the accuracy: the format, or all of somebody else's taskset."""
    names = list(rewards)
    return ["format"] if "format" in names else [name for name in names if name != ACCURACY]


def result_table(result: Mapping[str, Any]) -> str:
    """One line a task, one for all of them where there are several, and one for each further result."""
    tasks = [(row["task"], row) for row in result["slices"]["by_task"]]
    rows = [*tasks, *([("all", result)] if len(tasks) > 1 else [])]
    columns = [name for name in TURNS if name in result]
    rewards = shown_rewards(result["rewards"])
    lines = [
        [
            name,
            accuracy_text(row["accuracy"], row["accuracy_ci95"]),
            *(percent(row["rewards"][reward]) for reward in rewards),
            *turns_texts(row, columns),
            str(row["n"]),
        ]
        for name, row in rows
    ]
    skipped = [""] * len(rewards)
    more = [
        [
            name,
            accuracy_text(row["accuracy"], row["accuracy_ci95"]),
            *skipped,
            *turns_texts(row, columns),
            str(row["n"]),
        ]
        for name, row in [*ablation_rows(result), *((row["name"], row) for row in result["beside"])]
    ]
    blank = [*skipped, *[""] * (len(columns) + 1)]
    if result.get("samples"):
        majority = accuracy_text(result["majority"], result["majority_ci95"])
        more.insert(0, [f"majority of {result['samples']}", majority, *blank])
        more[1:1] = [[f"pass@{k}", percent(share).rjust(6), *blank] for k, share in result["pass_at"].items()]
    head = ["task", "accuracy (95% interval)", *rewards, *(TURNS[name] for name in columns), "n"]
    return _aligned([head, *lines, *more])


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """The same with before and after side by side; ablations and results beside them stand under `after`."""
    tasks = [(row["task"], row) for row in comparison["slices"]["by_task"]]
    rows = [*tasks, *([("all", comparison)] if len(tasks) > 1 else [])]
    columns = [name for name in TURNS if name in comparison]
    rewards = shown_rewards(comparison["rewards"])
    blank = [""] * (len(rewards) + len(columns) + 1)
    lines = [
        [
            name,
            accuracy_text(row["before"], row["before_ci95"]),
            accuracy_text(row["after"], row["after_ci95"]),
            f"{100 * row['difference']:+.1f}",
            *(" -> ".join(percent(row["rewards"][one][side]) for side in ("before", "after")) for one in rewards),
            *turns_texts(row, columns),
            str(row["n"]),
        ]
        for name, row in rows
    ]
    more = [
        [name, "", accuracy_text(row["accuracy"], row["accuracy_ci95"]), *blank, str(row["n"])]
        for name, row in [*ablation_rows(comparison), *((row["name"], row) for row in comparison["beside"])]
    ]
    if direct := comparison["direct"]:
        before = accuracy_text(direct["accuracy"], direct["accuracy_ci95"])
        more.insert(0, ["answering at once", before, "", *blank, str(direct["n"])])
    head = [
        "task",
        "before (95% interval)",
        "after (95% interval)",
        "change",
        *rewards,
        *(TURNS[name] for name in columns),
        "n",
    ]
    return _aligned([head, *lines, *more])


def results_table(rows: Sequence[Row]) -> str:
    """Results of several evaluations in one table, the best first; `*` marks those scored on other questions."""
    first = rows[0]
    marks = ["" if asked_the_same(row, first) else " *" for row in rows]
    lines = [
        [row["name"] + mark, accuracy_text(row["accuracy"], row["accuracy_ci95"]), str(row["n"])]
        for row, mark in sorted(zip(rows, marks, strict=True), key=lambda pair: -pair[0]["accuracy"])
    ]
    note = ["* on other questions than the first: not to be compared"] if any(marks) else []
    return "\n".join([_aligned([["result", "accuracy (95% interval)", "n"], *lines]), *note])


def curve_table(rows: Sequence[Mapping[str, Any]], best: int) -> str:
    """The accuracy of each checkpoint of a run, with a bar; the best has a mark."""
    lines = [
        [
            f"{row['step']:>6}{' *' if index == best else ''}",
            accuracy_text(row["accuracy"], row["accuracy_ci95"]),
            "#" * round(40 * row["accuracy"]),
            str(row["n"]),
        ]
        for index, row in enumerate(rows)
    ]
    return _aligned([["  step", "accuracy (95% interval)", "", "n"], *lines])


def turns_texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """What a row says of episodes, also of both sides; empty where it does not."""
    texts = []
    for name in columns:
        value = row.get(name)
        values = [] if value is None else [*value.values()] if isinstance(value, Mapping) else [value]
        texts.append(" -> ".join(f"{one:.2f}" if name in COUNTS else percent(one) for one in values))
    return texts


def ablation_rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(label, summary) of each ablation of a result, and of those behind it that were right with the right image."""
    rows = []
    for row in result.get("controls", {}).values():
        rows.append((f"with {row['title']}", row))
        if "of_right" in row:
            rows.append((OF_RIGHT, row["of_right"]))
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart: the first to the left, the last (a number) to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for *cells, last in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        lines.append(f"{line}  {last.rjust(widths[-1])}")
    return "\n".join(lines)

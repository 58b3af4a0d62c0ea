"""The curves of a training run, from its `metrics.jsonl`, as coordinates for the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.common.metrics_log import read_metrics

# How TRL logs the mean of each reward function and their weighted sum, and the lengths of what was sampled.
REWARDS = re.compile(r"rewards/(.+)/mean|(reward)")
LENGTHS = re.compile(r"completions/(mean|max)_length")
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One number: its points as logged and smoothed, as SVG has them (on 100 x 100), and where the smooth line ends."""

    name: str
    raw: str
    smooth: str
    last: float


@dataclass(frozen=True)
class Curve:
    """The lines of a run, from its first to its last step; the canvas is `top` high."""

    lines: list[Line]
    first: int
    last: int
    top: float


def read_series(path: Path, wanted: re.Pattern[str] = REWARDS) -> dict[str, Points]:
    """`(step, value)` of each wanted number by the part of its key in brackets, in order of steps.

    A step that was done again after the run was resumed counts as it came out last.
    """
    series: dict[str, dict[int, float]] = {}
    for entry in read_metrics(path):
        for key, value in entry.items():
            match = wanted.fullmatch(key)
            if match and isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(match[match.lastindex or 0], {})[entry["step"]] = float(value)
    return {name: sorted(values.items()) for name, values in series.items()}


def make_curve(path: Path, wanted: re.Pattern[str] = REWARDS, top: float = 1.0) -> Curve | None:
    """The curve of each wanted number, on a canvas at least `top` high; None for fewer than two steps.

    The sum of the rewards is drawn only where they were not logged apart.
    """
    series = read_series(path, wanted)
    drawn = {name: points for name, points in series.items() if name != "reward"} or series
    drawn = {name: points for name, points in drawn.items() if len(points) > 1}
    if not drawn:
        return None
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    first, last, top = int(min(steps)), int(max(steps)), max(top, *values) or 1.0

    def svg_points(points: Points) -> str:
        return " ".join(f"{100 * (x - first) / (last - first):.2f},{100 * (1 - y / top):.2f}" for x, y in points)

    lines = []
    for name, points in drawn.items():
        smooth = smoothed(points)
        lines.append(Line(name, svg_points(points), svg_points(smooth), smooth[-1][1]))
    return Curve(lines, first, last, top)


def smoothed(points: Sequence[tuple[float, float]]) -> Points:
    """The same steps, each with the mean over its neighbourhood: a twentieth of the run to either side."""
    radius = len(points) // 20
    values = [value for _, value in points]
    windows = [values[max(0, i - radius) : i + radius + 1] for i in range(len(values))]
    return [(step, sum(window) / len(window)) for (step, _), window in zip(points, windows, strict=True)]

"""Speed of the pieces, measured on this machine in one run: `make bench` prints a Markdown table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datagen.build import build, make_recipe
from datagen.tasks import TASKS

BIN = Path(sys.executable).parent
HOSTILE = ["<think><" * 12_500, "<think>" * 14_000, "<answer>" + "9," * 50_000 + "</answer>", "<" * 100_000]


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def images_per_second(workers: int, size: int = 4000) -> float:
    """Images of the digits dataset drawn a second, both configs on disk, start of the workers included."""
    recipe = make_recipe("digits", size=size, seed=0, shares=(80, 10, 10), source="mnist-5k", options={})
    with tempfile.TemporaryDirectory() as folder:
        return size / best(lambda: build(recipe, Path(folder) / "digits", workers), times=1)


def main() -> None:
    """Print the table."""
    rows = []
    for command in ("r1vlm-data", "r1vlm-train", "r1vlm-eval"):
        seconds = best(lambda name=command: subprocess.run([BIN / name, "--help"], check=True, capture_output=True))
        rows.append((f"`{command} --help`", f"{seconds:.2f} s"))
    hostile = max(
        best(lambda r=reward, t=text: r(t, {"digits": [1, 2, 3]}))
        for task in TASKS.values()
        for reward in task.rewards.values()
        for text in HOSTILE
    )
    rows.append(("slowest reward on the worst of four hostile texts of 100,000 characters", f"{1000 * hostile:.2f} ms"))
    one = images_per_second(1)
    cores = os.cpu_count() or 1
    rows.append(("`r1vlm-data build digits`, one worker", f"{one:.0f} images/s"))
    if cores > 1:
        rows.append((f"the same, {cores} workers, as a ratio", f"{images_per_second(cores) / one:.2f}"))
    print("| what | measured |\n|---|---:|", *(f"| {name} | {value} |" for name, value in rows), sep="\n")


if __name__ == "__main__":
    main()

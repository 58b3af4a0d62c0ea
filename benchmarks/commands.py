"""How fast the commands answer and the slowest reward is, on this machine: `make bench` prints a Markdown table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from datagen.dataset.config import DatasetConfig
from datagen.dataset.reward_audit import LONG, audit
from datagen.dataset.shards import sample_questions
from datagen.registry import DATASETS

BIN = Path(sys.executable).parent


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def slowest_reward() -> tuple[float, str]:
    """Seconds of the slowest judgement of any attack by any reward, and which."""
    found = []
    for spec in DATASETS.values():
        asked = sample_questions(DatasetConfig(dataset=spec.name, size=1000, seed=0), 12)
        for task in spec.tasks:
            findings = audit(task, asked[task.name])
            found += [(finding.seconds, f"{task.name}, {finding.attack}") for finding in findings]
    return max(found)


def main() -> None:
    """Print the table."""
    rows = []
    for command in ("r1vlm-data", "r1vlm-train", "r1vlm-eval"):
        seconds = best(lambda name=command: subprocess.run([BIN / name, "--help"], check=True, capture_output=True))
        rows.append((f"`{command} --help`", f"{seconds:.2f} s"))
    seconds, which = slowest_reward()
    rows.append(
        (f"slowest judgement of a hostile text of up to {LONG:,} characters ({which})", f"{1000 * seconds:.1f} ms")
    )
    print("| what | measured |\n|---|---:|", *(f"| {name} | {value} |" for name, value in rows), sep="\n")


if __name__ == "__main__":
    main()

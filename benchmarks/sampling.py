"""Sampled completions until 90% of validation, by how questions are chosen: `python -m benchmarks.sampling digits 0`.

All ways start from one cold start on the dataset, with the recipe's settings and `make demo`'s data; one of its tasks
(`list`) can be named too. 200 validation questions are answered greedily every ten steps; a run is ended at the first
time that 90% of them are right, or at its last step. What has been run is kept; `--ways` names some of the ways.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from datagen.common.files import METRICS, write_json
from datagen.common.metrics_log import read_metrics
from datagen.registry import find_dataset_or_task

BIN = Path(sys.executable).parent
RESULTS = Path(__file__).parent / "results"
TARGET = 0.9
EVERY = 10  # steps
Point = TypeVar("Point", tuple[int, float], tuple[int, int, float])
BUILD = {"words": ["--letters", "3..5"]}  # as `make demo`
WAYS = {
    "today": [],
    "dynamic sampling": ["--set", "dynamic_sampling=true"],
    "pool": ["--curriculum", "pool"],
    "both": ["--set", "dynamic_sampling=true", "--curriculum", "pool"],
}


def command(name: str, *words: object) -> list[str]:
    """A command of this checkout."""
    return [str(BIN / name), *map(str, words)]


def prepare(dataset: str, seed: int) -> tuple[Path, Path]:
    """The folders of the data and of the cold start, made where they are not there."""
    folder = Path("runs") / f"sampling-{dataset}-{seed}"
    data, cold = folder / "data", folder / "cold-start"
    options = BUILD.get(dataset, [])
    subprocess.run(command("r1vlm-data", "build", dataset, *options, "--seed", seed, "--out", data), check=True)
    words = [dataset, "--data", data, "--seed", seed, "--cold-start", "--out", cold, "--resume"]
    subprocess.run(command("r1vlm-train", *words), check=True)
    return data, cold / "final"


def scores(out: Path) -> list[tuple[int, float]]:
    """Steps, and accuracy on validation, at each time it was measured."""
    rows = read_metrics(out / METRICS)
    return [(row["step"], row["held_out/correctness"]) for row in rows if "held_out/correctness" in row]


def curve(out: Path) -> list[tuple[int, int, float]]:
    """The same, with the completions that were sampled up to each step."""
    lines = (out / "completions.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    return [(step, sum(one <= step for one in steps), accuracy) for step, accuracy in scores(out)]


def run(task: str, seed: int, way: str) -> dict[str, Any]:
    """One run to the target or to its end."""
    data, cold = prepare(find_dataset_or_task(task).name, seed)
    out = data.parent / f"{task}-{way.replace(' ', '-')}"
    words = [task, "--model", cold, "--data", data, "--seed", seed, "--out", out, "--eval-steps", EVERY]
    words += ["--no-report", "--resume", *WAYS[way]]
    started = time.monotonic()
    process = subprocess.Popen(command("r1vlm-train", *words))
    while process.poll() is None and not reached(scores(out)):
        time.sleep(2)
    ended = process.poll()
    process.terminate()
    process.wait()
    if ended:
        raise SystemExit(f"{way}: exit code {ended}")
    points = curve(out)
    first = reached(points)
    rows = [row for row in read_metrics(out / METRICS) if "frac_groups_zero_variance" in row]
    replaced = [row["sampling/frac_groups_replaced"] for row in rows if "sampling/frac_groups_replaced" in row]
    return {
        "task": task,
        "seed": seed,
        "way": way,
        "steps": first and first[0],
        "completions": first and first[1],
        "last": points[-1],
        "best": max(accuracy for _, _, accuracy in points),
        "zero_variance": sum(row["frac_groups_zero_variance"] for row in rows) / len(rows),
        "replaced": sum(replaced) / len(replaced) if replaced else 0.0,
        "seconds": round(time.monotonic() - started),
        "curve": points,
    }


def reached(points: Sequence[Point]) -> Point | None:
    """The first point at the target; accuracy is the last number of each."""
    return next((point for point in points if point[-1] >= TARGET), None)


def row(result: dict[str, Any]) -> str:
    """A result as a row of the Markdown table."""
    step, completions, accuracy = result["last"]
    until = f"{result['completions']:,} ({result['steps']} steps)" if result["completions"] else "not reached"
    return (
        f"| {result['task']} | {result['seed']} | {result['way']} | {until} | {accuracy:.1%} at {completions:,} "
        f"({step} steps) | {result['zero_variance']:.0%} | {result['replaced']:.0%} |"
    )


def main() -> None:
    """Run what is asked for, keep its numbers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    kept = RESULTS / f"sampling-{args.task}.json"
    results = json.loads(kept.read_text()) if kept.exists() else []
    for seed in args.seeds:
        for way in args.ways:
            if not any((one["seed"], one["way"]) == (seed, way) for one in results):
                results.append(run(args.task, seed, way))
                write_json(kept, results)
    head = ("task", "seed", "way", f"completions until {TARGET:.0%}", "at its end", "no variance", "replaced")
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    print(*map(row, results), sep="\n")


if __name__ == "__main__":
    main()

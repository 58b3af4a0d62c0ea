"""`make demo` for several seeds, timed: the table of benchmarks/RESULTS.md. `python -m benchmarks.demo 0 1 2`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datagen.files import write_json

RESULTS = Path(__file__).parent / "results" / "demo.json"
HEAD = (
    "| seed | before | after | difference (95% interval) | format after | questions | wall clock |\n" + "|---" * 7 + "|"
)


def run(seed: int) -> dict[str, Any]:
    """One demo in a folder of its own, from nothing; the numbers of its comparison and the seconds it took."""
    folder = Path("runs") / f"demo-{seed}"
    if folder.exists():
        raise SystemExit(f"{folder} is there already: delete it, a demo that goes on is no timing")
    started = time.monotonic()
    subprocess.run(["make", "demo", f"SEED={seed}", f"DEMO={folder}"], check=True)
    seconds = time.monotonic() - started
    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    keys = ("n", "images", "before", "before_ci95", "after", "after_ci95", "difference", "difference_ci95", "p_value")
    return {"seed": seed, "seconds": round(seconds), "format": comparison["rewards"]["format"]["after"]} | {
        key: comparison[key] for key in keys
    }


def row(result: dict[str, Any]) -> str:
    """The result as a row of the Markdown table."""
    low, high = result["difference_ci95"]
    return (
        f"| {result['seed']} | {result['before']:.1%} | {result['after']:.1%} "
        f"| {100 * result['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
        f"| {result['format']:.1%} | {result['n']} | {result['seconds'] // 60} min {result['seconds'] % 60} s |"
    )


def main() -> None:
    """Run the demos that are asked for, keep their numbers, and print the table."""
    results = {one["seed"]: one for one in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for seed in map(int, sys.argv[1:]):
        results[seed] = run(seed)
        write_json(RESULTS, [results[key] for key in sorted(results)])
    print(HEAD, *(row(results[key]) for key in sorted(results)), sep="\n")


if __name__ == "__main__":
    main()

"""`make demo` for several seeds, timed: tables of benchmarks/RESULTS.md. `python -m benchmarks.demo digits 0 1 2`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datagen.common.files import write_json

RESULTS = Path(__file__).parent / "results"
HEAD = ("seed", "task", "before", "after", "difference (95% interval)", "format after", "questions", "wall clock")


def run(task: str, seed: int) -> dict[str, Any]:
    """One demo in a folder of its own, from nothing; the numbers of its comparison and the seconds it took."""
    folder = Path("runs") / f"demo-{task}-{seed}"
    if folder.exists():
        raise SystemExit(f"{folder} is there already: delete it, a demo that goes on is no timing")
    started = time.monotonic()
    subprocess.run(["make", "demo", f"TASK={task}", f"SEED={seed}", f"DEMO={folder}"], check=True)
    seconds = time.monotonic() - started
    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    contrasts = [{**comparison, "task": "all"}, *comparison["slices"]["by_task"]]
    tasks = {one["task"]: summary(one) for one in contrasts}
    return {"seed": seed, "seconds": round(seconds), "tasks": tasks, "controls": controls(folder)}


def controls(folder: Path) -> dict[str, Any]:
    """What the answers of a demo's model rest on, asked behind the clock: each ablation by its title."""
    out = folder / "controls"
    tokens = json.loads((folder / "after.json").read_text(encoding="utf-8"))["settings"]["max_new_tokens"]
    words = [folder / "train" / "final", "--max-new-tokens", str(tokens), "--controls", "--out", out]
    subprocess.run([Path(sys.executable).with_name("r1vlm-eval"), *words], check=True)
    asked = json.loads((out / "results.json").read_text(encoding="utf-8"))["controls"].values()
    keys = ("n", "accuracy", "accuracy_ci95", "of_right")
    return {one["title"]: {key: one[key] for key in keys if key in one} for one in asked}


def summary(contrast: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a contrast."""
    keys = ("n", "images", "before", "before_ci95", "after", "after_ci95", "difference", "difference_ci95", "p_value")
    return {key: contrast[key] for key in keys} | {"format": contrast["rewards"]["format"]["after"]}


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table of a demo's seeds."""
    lines = [line for result in results for line in rows(result)]
    return "\n".join([f"| {' | '.join(HEAD)} |", "|" + "---|" * 2 + "---:|" * (len(HEAD) - 2), *lines])


def rows(result: dict[str, Any]) -> list[str]:
    """The result as rows of the Markdown table, one for all tasks and one for each where there are several."""
    tasks = result["tasks"] if len(result["tasks"]) > 2 else {"all": result["tasks"]["all"]}
    return [row(result, name, one) for name, one in tasks.items()]


def row(result: dict[str, Any], name: str, one: dict[str, Any]) -> str:
    """One row of it."""
    low, high = one["difference_ci95"]
    clock = f"{result['seconds'] // 60} min {result['seconds'] % 60} s" if name == "all" else ""
    return (
        f"| {result['seed']} | {name} | {one['before']:.1%} | {one['after']:.1%} "
        f"| {100 * one['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) "
        f"| {one['format']:.1%} | {one['n']} | {clock} |"
    )


def main() -> None:
    """Run the demos that are asked for, keep their numbers, and print the table."""
    task, *seeds = sys.argv[1:]
    kept = RESULTS / f"demo-{task}.json"
    results = {one["seed"]: one for one in json.loads(kept.read_text())} if kept.exists() else {}
    for seed in map(int, seeds):
        results[seed] = run(task, seed)
        write_json(kept, [results[key] for key in sorted(results)])
    print(table([results[key] for key in sorted(results)]))


if __name__ == "__main__":
    main()

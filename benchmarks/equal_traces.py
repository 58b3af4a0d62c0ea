"""What supervised training reaches where GRPO starts: `python -m benchmarks.equal_traces runs/demo-digits-0`.

Beside a demo (cold start on few traces, then GRPO on other questions, which have only a checkable answer), on its data:

- supervised training on the very same traces until it stops helping: lengths of 1, 2, 4 and 8 times the cold start's,
  each with its learning rate brought down to 0; the best on the `validation` split is scored on `test`;
- supervised training on a correct trace of every training question, for as long as the demo's GRPO took.

The rows go to benchmarks/results/, from where `make demo` puts them into the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datagen.common.files import write_json

BIN = Path(sys.executable).parent
KEEP = ("accuracy", "accuracy_ci95", "n", "shown", "dataset_fingerprint", "split", "tasks")
RESULTS = Path(__file__).parent / "results"
ALL = 10**6  # traces: more than there are


def supervised(demo: Path, name: str, seed: int, traces: int, steps: int) -> tuple[Path, float]:
    """Supervised training of the built-in model in a new folder; returns its checkpoint and the seconds it took."""
    out = demo.with_name(f"{demo.name}-{name}")
    started = time.monotonic()
    words = ["--data", demo / "data", "--model", "small", "--seed", seed, "--out", out, "--cold-start"]
    words += ["--traces", traces, "--steps", steps]
    subprocess.run([BIN / "r1vlm-train", "digits", *map(str, words)], check=True)
    return out / "final", time.monotonic() - started


def score(checkpoint: Path, split: str) -> dict[str, Any]:
    """The result of `r1vlm-eval` on a split."""
    out = checkpoint.parent / f"eval-{split}"
    words = [checkpoint, "--split", split, "--out", out, "--max-new-tokens", "64"]
    subprocess.run([BIN / "r1vlm-eval", *words], check=True)
    result: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return result


def keep(name: str, result: dict[str, Any]) -> None:
    """Write the row that a report shows."""
    write_json(RESULTS / f"{name}.json", {"name": name.replace("-", " ")} | {key: result[key] for key in KEEP})
    print(f"{name}: {result['accuracy']:.1%}, n = {result['n']}")


def seconds_of_grpo(demo: Path) -> float:
    """From the moment the run was noted to the moment it was done, loading included."""
    return (demo / "train" / "final").lstat().st_mtime - (demo / "train" / "run.json").stat().st_mtime


def main() -> None:
    """Both supervised results beside one demo."""
    demo = Path(sys.argv[1])
    cold = json.loads((demo / "train" / "cold-start" / "run.json").read_text(encoding="utf-8"))
    traces, steps, seed = cold["settings"]["traces"], cold["settings"]["max_steps"], cold["seed"]
    runs = [supervised(demo, f"same-traces-{times * steps}", seed, traces, times * steps) for times in (1, 2, 4, 8)]
    keep("supervised-same-traces", score(max(runs, key=lambda run: score(run[0], "validation")["accuracy"])[0], "test"))
    per_step = (runs[2][1] - runs[0][1]) / (3 * steps)
    everything, _ = supervised(demo, "all-traces", seed, ALL, round(seconds_of_grpo(demo) / per_step))
    keep("supervised-all-traces-same-time", score(everything, "test"))


if __name__ == "__main__":
    main()

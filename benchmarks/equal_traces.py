"""What supervised training reaches where GRPO starts: `python -m benchmarks.equal_traces runs/demo-0`.

Beside a demo (cold start on few traces, then GRPO on fresh questions that have only a checkable answer), on its data:

- supervised training on the very same traces, until the held-out accuracy stops improving: the best of its checkpoints
  on the `validation` split, scored on `test`;
- supervised training on a correct trace for every training question, for as long as the demo trained.

The rows go to benchmarks/results/, from where `make demo` puts them into the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datagen.files import write_json

BIN = Path(sys.executable).parent
KEEP = ("accuracy", "accuracy_ci95", "n", "shown", "dataset_fingerprint", "split", "tasks")
RESULTS = Path(__file__).parent / "results"


def supervised(demo: Path, out: Path, seed: int, traces: int, steps: int, *settings: str) -> float:
    """Supervised training of the built-in model; returns the seconds it took."""
    started = time.monotonic()
    words = ["--data", demo / "data", "--model", "small", "--seed", seed, "--out", out, "--resume", "--cold-start"]
    words += ["--traces", traces, "--steps", steps, *(word for one in settings for word in ("--set", one))]
    subprocess.run([BIN / "r1vlm-train", "digits", *map(str, words)], check=True)
    return time.monotonic() - started


def score(checkpoint: Path, split: str) -> dict[str, Any]:
    """The result of `r1vlm-eval` on a split."""
    out = checkpoint.parent / f"eval-{split}-{checkpoint.name}"
    subprocess.run([BIN / "r1vlm-eval", checkpoint, "--split", split, "--out", out], check=True)
    result: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return result


def keep(name: str, result: dict[str, Any]) -> None:
    """Write the row that a report shows."""
    write_json(RESULTS / f"{name}.json", {"name": name.replace("-", " ")} | {key: result[key] for key in KEEP})
    print(f"{name}: {result['accuracy']:.1%}, n = {result['n']}")


def main() -> None:
    """Both supervised runs beside one demo."""
    demo = Path(sys.argv[1])
    cold = json.loads((demo / "train" / "cold-start" / "run.json").read_text(encoding="utf-8"))
    traces, steps, seed = cold["settings"]["traces"], cold["settings"]["max_steps"], cold["seed"]
    same = demo.with_name(f"{demo.name}-same-traces")
    supervised(demo, same, seed, traces, 3 * steps, f"save_steps={steps // 2}")
    best = max(same.glob("checkpoint-*"), key=lambda checkpoint: score(checkpoint, "validation")["accuracy"])
    keep("supervised-same-traces", score(best, "test"))

    metrics = (demo / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    grpo = sum(json.loads(line)["step_time"] for line in metrics)
    probe = demo.with_name(f"{demo.name}-probe")
    per_step = (supervised(demo, probe, seed, 10**6, 40) - supervised(demo, probe / "one", seed, 10**6, 1)) / 39
    everything = demo.with_name(f"{demo.name}-all-traces")
    supervised(demo, everything, seed, 10**6, steps + round(grpo / per_step))
    keep("supervised-all-traces-same-time", score(everything / "final", "test"))


if __name__ == "__main__":
    main()

"""Our step beside that of a script written straight from TRL's documentation: `python -m benchmarks.train`.

The built-in small model, the digits dataset, all weights trained, the recipe's batch. Four processes take their steps
in turns, each with the machine to itself meanwhile: the script, our stage with and without shared prefixes, and the
script once more, which shows the noise. All start from one seed and draw the same noise, also for completions that have
ended: so they sample the same completions, and take the same steps.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.steps import Step, Worker, make_run, ratios
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from training.models import model_folder

STEPS = int(os.environ.get("STEPS", "24"))
WARM_UP = 2  # steps before those that count
WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # shown as, and run as, with settings of its own
    "TRL's trainer alone": ("plain", {}),
    "`r1vlm-train`": ("ours", {}),
    "`r1vlm-train --set shared_prefix=false`": ("ours", {"shared_prefix": False}),
    "TRL's trainer alone, again": ("plain", {}),
}
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 128,
    "num_generations": 8,
    "max_completion_length": 64,
    "learning_rate": 2e-4,
    "beta": 0.0,
    "loss_type": "dr_grpo",
    "scale_rewards": "batch",
    "bf16": False,
    "gradient_checkpointing": False,
    "max_steps": 1000,  # it is stopped before
    "save_steps": 1000,
}


def take_turns(folder: Path) -> tuple[dict[str, list[Step]], dict[str, float]]:
    """The steps of each way, and the seconds each took to start, imports included."""
    build(DatasetConfig(dataset="digits", size=2000, seed=0), folder / "data", workers=2)
    with ExitStack() as stack:
        workers = {}
        for i, (name, (way, more)) in enumerate(WAYS.items()):
            run = make_run(model_folder("small"), folder / "data", folder / str(i), SETTINGS | more, {})
            workers[name] = stack.enter_context(Worker(way, run, WARM_UP + STEPS))
        steps: dict[str, list[Step]] = {name: [] for name in WAYS}
        names = list(WAYS)
        for i in range(WARM_UP + STEPS):
            for name in names[i % 4 :] + names[: i % 4]:  # each is as often the first
                steps[name].append(workers[name].step())
        return {name: taken[WARM_UP:] for name, taken in steps.items()}, {
            name: worker.start["seconds"] for name, worker in workers.items()
        }


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        steps, starts = take_turns(Path(folder))
    first, *_ = steps.values()
    theirs = [step["seconds"] for step in first]
    print("| way | seconds a step (median) | of them generation | ratio, paired (95% interval) | seconds to start |")
    print("|---|---:|---:|---:|---:|")
    for name, taken in steps.items():
        seconds = [step["seconds"] for step in taken]
        middle, low, high = ratios(seconds, theirs)
        ratio = "1" if taken is first else f"{middle:.3f} ({low:.3f} to {high:.3f})"
        sampling = statistics.median(step["generation"] for step in taken)
        print(f"| {name} | {statistics.median(seconds):.3f} | {sampling:.3f} | {ratio} | {starts[name]:.1f} |")
    for what, of in (("completions of the same lengths", "completion"), ("the same mean reward", "reward")):
        same = sum(all(taken[i][of] == first[i][of] for taken in steps.values()) for i in range(STEPS))
        print(
            f"\nIn {same} of {STEPS} steps of {SETTINGS['per_device_train_batch_size']} completions, all have {what}."
        )


if __name__ == "__main__":
    main()

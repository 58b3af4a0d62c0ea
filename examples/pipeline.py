"""The whole pipeline from Python: build a dataset, look at it, train for a few steps, evaluate.

    python examples/pipeline.py [FOLDER]

It takes some minutes on a CPU. GRPO needs about 200 steps to show what it can do.
"""

import sys
from pathlib import Path

import datagen
import evaluation
import training
from datagen.dataset.reader import open_dataset


def main(folder: Path, steps: int = 20) -> evaluation.EvalResult:
    """Run it in a folder; returns what the last checkpoint scores beside the cold start."""
    data = datagen.build(datagen.DatasetConfig(dataset="digits", size=2000, seed=0), folder / "data")
    question = open_dataset(data).questions("train")[0]
    question["image"].save(folder / "question.png")
    print(question["prompt"][-1]["content"], question["solution"], sep="\n")

    run = training.RunConfig(
        task="digits", data=str(data), out=folder / "run", model="small", steps=steps, report=False
    )
    final = training.run(run)
    baseline = folder / "run" / "cold-start" / "final"
    result = evaluation.evaluate(
        evaluation.EvalConfig(
            checkpoint=str(final), baseline=str(baseline), data=str(data), out=folder / "results", report=True
        )
    )
    change = result.comparison
    print(f"held-out accuracy {change['before']:.1%} -> {change['after']:.1%}, n = {change['n']}")
    print(f"report: {folder / 'results' / 'report.html'}")
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example"))

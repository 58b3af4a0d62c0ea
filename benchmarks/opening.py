"""What it costs to check a dataset on opening: `python -m benchmarks.opening [DATA]`.

Of a dataset of 100,000 questions (built where none is named) the test and the training split are opened twice: every
file hashed, and the first time every row checked and every image decoded. Beside it, an evaluation of 1,000 questions
of the test split by the built-in model, opening included. In seconds of CPU time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from evaluation.config import EvalConfig
from evaluation.evaluator import evaluate
from training.models import model_folder


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["R1VLM_CACHE"] = f"{folder}/cache"  # nothing is remembered yet
        data = (
            Path(sys.argv[1])
            if len(sys.argv) > 1
            else build(DatasetConfig(dataset="digits", size=50_000), Path(folder, "data"))
        )
        open_dataset(data).questions("validation")  # the libraries are loaded, and not timed
        for split in ("test", "train", "test", "train"):
            started = time.process_time()
            rows = open_dataset(data).questions(split)
            print(f"opening {split}, {len(rows)} questions: {time.process_time() - started:.2f} s", flush=True)
        started = time.process_time()
        model, out = str(model_folder("small")), Path(folder, "out")
        evaluate(EvalConfig(checkpoint=model, data=str(data), limit=1000, max_new_tokens=64, out=out))
        print(f"evaluation of 1,000 questions, at most 64 tokens each: {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main()

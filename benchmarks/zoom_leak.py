"""What the coarse image of `zoom` gives away by itself: `python -m benchmarks.zoom_leak`.

A reader by 15 nearest neighbours, who has seen 9,000 cells of the train split as they are shown, names the digits of
1,800 cells of the test split. Beside it, what the most frequent digit alone gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datagen.dataset.config import DatasetConfig
from datagen.dataset.shards import raw_row
from datagen.interaction import decode_image
from datagen.tasks.zoom import GRID
from evaluation.metrics.statistics import wilson

SEED = 5
SCENES = {"train": 1000, "test": 200}
NEIGHBOURS = 15


def cells(coarseness: int, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The cells of a split as they are shown, (cells, pixels) from paper 0 to ink 1, and their digits."""
    config = DatasetConfig(dataset="zoom", size=10_000, seed=SEED, options={"coarseness": coarseness})
    side, shown, labels = coarseness // GRID, [], []
    for index in range(SCENES[split]):
        row = raw_row(config, split, index)
        image = np.asarray(decode_image(row["image"]).convert("L"), dtype=np.float64)
        at = np.floor((np.arange(coarseness) + 0.5) * image.shape[0] / coarseness).astype(int)
        coarse = image[np.ix_(at, at)]
        ink = (coarse.max() - coarse) / (coarse.max() - coarse.min())
        shown += [
            ink[y : y + side, x : x + side].ravel()
            for y in range(0, coarseness, side)
            for x in range(0, coarseness, side)
        ]
        labels += row["grid"]
    return np.array(shown), np.array(labels)


def main() -> None:
    """Print the table."""
    print("| coarseness | read rightly (95% interval) | the most frequent digit | cells |\n|---:|---|---:|---:|")
    for coarseness in (9, 12, 18, 36):
        (seen, known), (asked, truth) = (cells(coarseness, split) for split in ("train", "test"))
        distances = (asked**2).sum(1)[:, None] - 2 * asked @ seen.T + (seen**2).sum(1)
        nearest = known[np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]]
        guesses = np.array([np.bincount(row, minlength=10).argmax() for row in nearest])
        right, n = float((guesses == truth).mean()), len(truth)
        low, high = wilson(right, n)
        usual = float((truth == np.bincount(known).argmax()).mean())
        print(f"| {coarseness} | {right:.1%} ({100 * low:.1f} to {100 * high:.1f}) | {usual:.1%} | {n} |")


if __name__ == "__main__":
    main()

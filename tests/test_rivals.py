"""What `benchmarks.rivals` counts, and the parts that it has of its own."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image

from benchmarks.rivals import COLD, GRPO, SAMPLING, SUPERVISED, estimate, p_value, summarize, tables
from benchmarks.rivals_eval import DEVIATION, noisy, smaller
from benchmarks.rivals_raft import RAFTTrainer, right_ones

NAMES = ("test", "smaller", "noisy", "longer", "blank", "format", "pass@1", "pass@8", "pass@32")


def made_up(seed: int, way: str, accuracy: float) -> dict[str, Any]:
    """A run whose scores are all the same."""
    return {"seed": seed, "way": way, "steps": 1, "cpu_seconds": 2.0, "scores": dict.fromkeys(NAMES, accuracy)}


def test_an_interval_over_seeds_is_students() -> None:
    mean, half = estimate([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert p_value([0.1, 0.2, 0.3]) == pytest.approx(0.0742, abs=1e-3)
    assert p_value([0.0, 0.0]) == 1.0


def test_a_summary_has_whole_seeds_alone_and_pairs_by_seed() -> None:
    ways = [COLD, *SAMPLING, *SUPERVISED]
    runs = [
        made_up(seed, way, 0.1 * seed + 0.01 * i + 0.001 * seed * i) for seed in (1, 2) for i, way in enumerate(ways)
    ]
    assert summarize(runs[: len(ways)]) == []
    summary = {row["way"]: row for row in summarize([*runs, made_up(3, COLD, 0.9)])}
    assert list(summary) == ways
    assert summary[COLD]["seeds"] == [1, 2]
    assert summary[COLD]["scores"]["test"][0] == pytest.approx(0.15)
    assert summary[GRPO]["gain"]["test"][0] == pytest.approx(0.0115)
    assert summary["RAFT"]["beside_grpo"]["test"][0] == pytest.approx((ways.index("RAFT") - 1) * 0.0115)
    assert summary["RAFT"]["beside_grpo"]["test"][1] < summary["RAFT"]["scores"]["test"][1] / 10
    cost, other, several = tables(list(summary.values()))
    assert "| RAFT | 1 | 0 | 2 | 23.1 ± " in cost
    assert other.count("\n") == several.count("\n") == len(ways) + 1


def test_raft_trains_on_right_completions_alone() -> None:
    rewards = [1.1, 0.1, 1.0, 0.0]  # right, of the right form, right in another form, neither
    assert right_ones(rewards).tolist() == [True, False, True, False]
    assert right_ones(torch.tensor([0.1, 1.0]).cumsum(0).tolist()).tolist() == [False, True]
    trainer = object.__new__(RAFTTrainer)
    trainer.num_generations, trainer._metrics = 2, {"train": defaultdict(list)}
    batch = {"advantages": torch.zeros(4), "completion_mask": torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])}
    trainer.on_batch_scored(batch, rewards)
    assert batch["advantages"].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert batch["num_items_in_batch"] == 3


@pytest.fixture
def rows() -> Dataset:
    """One question about a black square on light paper."""
    pixels = np.full((84, 84, 3), 230, dtype=np.uint8)
    pixels[20:40, 20:40] = 0
    return Dataset.from_list([{"image_id": "one", "image": Image.fromarray(pixels)}]).cast_column(
        "image", ImageColumn()
    )


def test_the_other_images_are_as_large_and_always_the_same(rows: Dataset) -> None:
    small = np.asarray(smaller(rows, 0)["image"])
    assert small.shape == (84, 84, 3)
    assert (small == 230).all(axis=2).sum() > 84 * 84 - 400
    assert 150 < (small < 100).all(axis=2).sum() < 240  # 14 x 14 pixels
    first, second = (np.asarray(noisy(rows, 0)["image"]) for _ in range(2))
    assert (first == second).all()
    assert np.abs(first.astype(float) - 230)[60:, 60:].mean() < DEVIATION
    assert first.std() > 20

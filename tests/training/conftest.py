"""What several tests of training need, made once for all workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeOnce

TINY = ("--set", "per_device_train_batch_size=8", "--set", "num_generations=4", "--set", "max_completion_length=32")


@pytest.fixture(scope="session")
def few_digits(make_once: MakeOnce) -> Path:
    """A digits dataset of 32 train, 4 validation and 4 test images: scoring a random model on it takes seconds."""
    from datagen.dataset.build import build
    from datagen.dataset.config import DatasetConfig

    def fill(folder: Path) -> None:
        build(DatasetConfig(dataset="digits", size=40, seed=3), folder / "digits", workers=1)

    return make_once("few-digits", fill) / "digits"

"""What several tests of datasets need."""

from __future__ import annotations

from pathlib import Path

import pytest

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.registry import DATASETS
from tests.conftest import MakeOnce


@pytest.fixture(scope="session", params=list(DATASETS))
def built(request: pytest.FixtureRequest, make_once: MakeOnce) -> Path:
    """A small dataset of each kind; no test may change it."""
    name = request.param

    def fill(folder: Path) -> None:
        build(DatasetConfig(dataset=name, size=80, seed=2), folder / name, workers=1)

    return make_once(f"small-{name}", fill) / name

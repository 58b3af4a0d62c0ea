"""What the tests of hostile files share: the good things that they damage."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from tests.conftest import MakeOnce
from tests.hostile.damage import TEST


@pytest.fixture(scope="session")
def few(make_once: MakeOnce) -> Path:
    """A digits dataset of 30 images, and completions that are right."""

    def fill(folder: Path) -> None:
        build(DatasetConfig(dataset="digits", size=30), folder / "digits", executor=map)
        rows = pq.read_table(folder / "digits" / TEST, columns=["id", "solution"]).to_pylist()
        lines = [json.dumps({"id": row["id"], "completion": row["solution"]}) + "\n" for row in rows]
        (folder / "right.jsonl").write_text("".join(lines))

    return make_once("hostile-data", fill)

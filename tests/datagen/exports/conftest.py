"""The datasets that every tool is tried with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["digits_folder", "pairs"], ids=["digits", "pairs"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A dataset of one image a question, and one in which every second question shows two."""
    found: Path = request.getfixturevalue(request.param)
    return found

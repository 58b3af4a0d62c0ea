"""The examples run as they are, and show what they say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "first_look.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # which would be of another version one day
    known: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), known)
    assert known["right"] == {"format": 1.0, "correctness": 1.0}
    assert known["wrong"] == {"format": 1.0, "correctness": 0.0}
    assert known["unformatted"] == {"format": 0.0, "correctness": 0.0}
    assert known["seen"].image.size == (84, 84)


@pytest.mark.slow
def test_the_pipeline_runs(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pipeline", EXAMPLES / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main(tmp_path, steps=1)
    assert result.comparison["n"] == 400
    assert result.comparison["before"] > 0.2  # the cold start has taught it something
    assert (tmp_path / "results" / "report.html").is_file()
    assert (tmp_path / "question.png").is_file()

"""200 answers to questions, right, wrong and hostile, what they are worth here, and the environments of other tools."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from datagen.dataset.reader import open_dataset
from datagen.dataset.reward_audit import ATTACKS
from datagen.r1_format import completion_of, full_message
from datagen.registry import find_task
from datagen.task import score

Row = Mapping[str, Any]
BASE = Path(__file__).parents[3] / "training" / "builtin_models" / "base"
COUNT = 200


def answered(folder: Path, split: str) -> list[tuple[dict[str, Any], str]]:
    """Each of 200 questions, some of them again, with what is generated behind the opening words."""
    rows = list(open_dataset(folder).questions(split))
    asked = [rows[i % len(rows)] for i in range(COUNT)]
    hostile = [attack.text(row) for attack, row in zip(ATTACKS, asked, strict=False)]
    others = [asked[i - i % 2]["solution"] for i in range(len(hostile), COUNT)]  # every second one is another's
    return [(row, completion_of(str(text))) for row, text in zip(asked, [*hostile, *others], strict=True)]


def worth(answers: Iterable[tuple[Row, str]]) -> list[dict[str, float]]:
    """The rewards of answers as `r1vlm-eval` has them."""
    return [score(find_task(row["task"]), full_message(text), row) for row, text in answers]


def run_in(tool: str, *words: str | Path, cwd: Path, **variables: str) -> None:
    """Run the Python of a tool's environment to its end, in a folder; the test is skipped where there is none."""
    python = Path(__file__).parents[3] / f".venv-{tool}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{tool} is not installed: make test-exports")
    done = subprocess.run(
        [python, *words], cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

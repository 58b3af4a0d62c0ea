"""What the tests of the evaluation share: questions, files of completions, and a way to call the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datagen.dataset.reader import open_dataset

Call = Callable[..., "Called"]


@dataclass(frozen=True)
class Called:
    """How a call of `r1vlm-eval` ended."""

    code: object
    out: str
    err: str


@pytest.fixture(scope="session")
def questions(digits_folder: Path) -> list[dict[str, Any]]:
    """The test questions, without their images."""
    return open_dataset(digits_folder).questions("test").remove_columns("image").to_list()


@pytest.fixture(autouse=True)
def own_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Answers that a test keeps are met by no other: two servers of two tests may have had the same address."""
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "answers"))


@pytest.fixture
def r1vlm_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process, with any arguments."""

    def call(*arguments: object) -> Called:
        from evaluation.cli import main

        monkeypatch.setattr(sys, "argv", ["r1vlm-eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Called(ended.value.code, printed.out, printed.err)

    return call


def write_lines(path: Path, messages: Mapping[str, str]) -> Path:
    """A file of completions, by id."""
    path.write_text("".join(json.dumps({"id": i, "completion": m}) + "\n" for i, m in messages.items()))
    return path


def solutions(questions: list[dict[str, Any]]) -> dict[str, str]:
    """A message that earns full marks, by id."""
    return {question["id"]: question["solution"] for question in questions}


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))

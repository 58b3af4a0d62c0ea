"""What the tests of the evaluation share: questions, small datasets, files of completions, a call of the command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.interaction import format_call
from datagen.registry import DATASETS
from datagen.tasks.zoom import zoom
from evaluation.backends.base import Prompt
from evaluation.prompt_variants import R1
from tests.conftest import MakeOnce
from tests.processes import invoke

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def questions(digits_folder: Path) -> list[dict[str, Any]]:
    """The test questions, without their images."""
    return open_dataset(digits_folder).questions("test").remove_columns("image").to_list()


@pytest.fixture(scope="session")
def small_datasets(make_once: MakeOnce) -> dict[str, Path]:
    """A dataset of each kind, of 30 images: their tasks have different rewards."""

    def fill(folder: Path) -> None:
        for name in DATASETS:
            build(DatasetConfig(dataset=name, size=30, seed=0), folder / name, executor=map)

    folder = make_once("small-datasets", fill)
    return {name: folder / name for name in DATASETS}


@pytest.fixture(scope="session")
def zoom_folder(make_once: MakeOnce) -> Path:
    """A zoom dataset of 20 test questions."""

    def fill(folder: Path) -> None:
        build(DatasetConfig(dataset="zoom", size=200, seed=0), folder / "zoom", executor=map)

    return make_once("zoom-200", fill) / "zoom"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Completions that a test caches are met by no other: two servers of two tests may have had the same address."""
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "answers"))


@pytest.fixture
def r1vlm_eval() -> Call:
    """Call the command in this process, with any arguments."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return invoke("evaluation.cli", *map(str, arguments))

    return call


def prompt_at(rows: Any, index: int, turns: int) -> Prompt:
    """The prompt of a row, behind so many calls."""
    history = [
        (format_call("Look.", f"zoom {cell}"), zoom(f"zoom {cell}", rows[index])) for cell in range(1, turns + 1)
    ]
    return replace(R1.prompt(rows, index), history=history)


def write_lines(path: Path, messages: Mapping[str, str]) -> Path:
    """A file of completions, by id."""
    path.write_text("".join(json.dumps({"id": i, "completion": m}) + "\n" for i, m in messages.items()))
    return path


def solutions(questions: list[dict[str, Any]]) -> dict[str, str]:
    """A message that earns full marks, by id."""
    return {question["id"]: question["solution"] for question in questions}


def write_traces(path: Path, questions: list[dict[str, Any]]) -> Path:
    """A file of completions that earn full marks, of tasks of several turns too."""
    lines = []
    for question in questions:
        turns = [{"completion": message} for message in question.get("turns", [])]
        lines.append({"id": question["id"], "completion": question["solution"], "turns": turns})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))

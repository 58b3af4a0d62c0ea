"""A person plays: the same questions, tools and rewards as a model has."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.interaction import format_call
from datagen.tasks.zoom import zoom
from tests.processes import invoke, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(build(DatasetConfig(dataset="zoom", size=20, seed=1), tmp_path / "zoom", executor=map))


def play(monkeypatch: pytest.MonkeyPatch, lines: list[str], *words: Any) -> str:
    """What the command says to somebody who types these lines, then leaves."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    done = invoke("datagen.cli", "play", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_episode_is_played_with_the_tool(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_dataset(folder).questions("test")
    row = rows[0]
    looks = [f"zoom {cell}" for cell in row["cells"]]
    said = play(monkeypatch, [*looks, f"answer {row['answer']}", "zoom 12"], folder, "--out", tmp_path / "images")
    assert row["prompt"][-1]["content"].split("\n")[0] in said
    assert "format 1, correctness 1, economy 1" in said
    assert "No such call" in said
    assert said.endswith("1 of 1 right\n")
    with Image.open(tmp_path / "images" / "2.png") as shown:
        cell = zoom(looks[0], row).image
        assert cell is not None
        assert shown.convert("RGB").tobytes() == cell.tobytes()


def test_a_recorded_episode_stands_beside(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = open_dataset(folder).questions("test")[1]
    turns = [{"completion": format_call("Look.", "zoom 12")}, *({"completion": turn} for turn in row["turns"])]
    line = {"id": row["id"], "turns": turns, "completion": row["solution"].replace("I see", "\x1b[2J I see")}
    path = tmp_path / "completions.jsonl"
    path.write_text(json.dumps(line) + "\n")
    said = play(monkeypatch, ["answer 1000"], folder, "--against", path, "--out", tmp_path / "images")
    needed = len(row["cells"])
    assert "you: format 1, correctness 0, economy 0" in said
    assert f"recorded: format 0, correctness 1, economy {needed / (needed + 1):g}; {needed + 1} calls" in said
    assert "\x1b" not in said
    path.write_text("{}")
    assert "has no episode" in refused(invoke("datagen.cli", "play", folder, "--against", path))
    assert "can't read" in refused(invoke("datagen.cli", "play", folder, "--against", tmp_path))


@pytest.mark.parametrize("name", ["check", "sum", "paged_word"])
def test_questions_are_drawn_for_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = play(monkeypatch, ["x"] * 20, name, "--count", 2, "--out", tmp_path / "images")
    assert said.count("right is") == 2
    assert "0 of 2 right" in said
    assert "there is no dataset" in refused(invoke("datagen.cli", "play", "nothing"))

"""The files that a command is given: regular ones are read, and nothing that waits for a writer or has no end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import invoke, refused


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def link_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.mkdir()


KINDS = (make_pipe, link_device, make_folder)
COMMANDS = {
    "completions": ("evaluation.cli", "given.jsonl", "--data", "DATA"),
    "a baseline": ("evaluation.cli", "good.jsonl", "--data", "DATA", "--baseline", "given.jsonl"),
    "a result": ("evaluation.cli", "given.json"),
    "a result beside": ("evaluation.cli", "good.jsonl", "--data", "DATA", "--beside", "given.json"),
    "metrics": ("evaluation.cli", "good.jsonl", "--data", "DATA", "--metrics", "given.jsonl"),
    "an evaluation's settings": ("evaluation.cli", "given.yaml"),
    "a training's settings": ("training.cli", "given.yaml"),
    "a dataset's settings": ("datagen.cli", "build", "given.yaml"),
    "a dataset's code": ("datagen.cli", "build", "given.py"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_regular_file_is_refused(
    name: str, kind: Callable[[Path], None], digits_folder: Path, tmp_path: Path
) -> None:
    module, *words = COMMANDS[name]
    (tmp_path / "good.jsonl").write_text("")
    given = next(word for word in words if word.startswith("given"))
    kind(tmp_path / given)
    words = [str(digits_folder) if word == "DATA" else word for word in words]
    assert given in refused(invoke(module, *words, cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["good.jsonl", given])


def test_a_line_without_end_is_refused(digits_folder: Path, tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "completion": " " * (1 << 24)})
    (tmp_path / "c.jsonl").write_text(f"\n{line}\n")
    done = invoke("evaluation.cli", "c.jsonl", "--data", digits_folder, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(f"line 2 of {tmp_path}/c.jsonl has more than 16777216 characters: cut it\n")


def test_settings_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("#" * 1_000_000)
    assert "s.yaml is not valid YAML: it has more than 262144 characters" in refused(
        invoke("training.cli", "s.yaml", cwd=tmp_path)
    )

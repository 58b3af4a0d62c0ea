"""`r1vlm-train --env`: GRPO on somebody else's taskset, with the rewards of the real verifiers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from datagen.taskset.questions import TasksetDataset, open_to_train, split_by_images
from tests.outside import registry_restored
from tests.processes import invoke, refused
from tests.tasksets import PACKAGES

installed = pytest.mark.skipif(
    importlib.util.find_spec("verifiers") is None, reason="verifiers is not installed: make test-verifiers"
)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the packages of the tests count as installed."""
    monkeypatch.syspath_prepend(PACKAGES)
    with registry_restored():
        yield


@installed
def test_grpo_on_a_taskset(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "answers"))
    out = tmp_path / "run"
    words = ["--model", random_checkpoint, "--hardware", "cpu", "--steps", 2, "--no-report", "--eval-steps", 1]
    sets = ["per_device_train_batch_size=16", "max_completion_length=12", "drop_zero_variance=false"]
    sets = [word for one in sets for word in ("--set", one)]
    done = invoke("training.cli", "--env", "square_first", *map(str, words), *sets, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    built = open_to_train("square_first")
    rows = {row["id"]: row for row in built.questions("train")}
    lines = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 16
    for line in lines:
        assert line["rewards"] == built.taskset.judge(rows[line["id"]]["number"], [line["completion"]])
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first = next(one for one in logged if "reward" in one)
    mean = sum(3 * line["rewards"]["color"] + line["rewards"]["brief"] for line in lines[:16]) / 16
    assert first["reward"] == pytest.approx(mean)
    trained = str(out / "final")
    assert "name it with --env square-first" in refused(invoke("evaluation.cli", trained, "--out", tmp_path / "eval"))
    asks = ["--env", "square_first", "--max-new-tokens", "8", "--report", "--baseline", str(random_checkpoint)]
    done = invoke("evaluation.cli", trained, *asks, "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    completions = (tmp_path / "eval" / "after.completions.jsonl").read_text().splitlines()
    asked = [json.loads(line)["id"] for line in completions]
    assert asked == built.questions("test")["id"]
    assert not rows.keys() & {*asked}
    assert "step 1" in (tmp_path / "eval" / "report.html").read_text()


@installed
def test_splits_share_no_image() -> None:
    built = open_to_train("square_first")
    assert isinstance(built, TasksetDataset)
    shown = [{*built.questions(split)["image_id"]} for split in ("train", "validation", "test")]
    assert sum(map(len, shown)) == len(set.union(*shown)) == 40


def test_questions_that_images_connect_are_in_one_split() -> None:
    images = [sha256(bytes([number])).hexdigest() for number in range(200)]
    assert {*split_by_images([[one] for one in images])} == {"train", "validation", "test"}
    pairs = [[images[number], images[number - number % 5]] for number in range(200)]  # five questions share an image
    splits = split_by_images(pairs)
    assert {*splits} == {"train", "validation", "test"}
    assert all(len({*splits[at : at + 5]}) == 1 for at in range(0, 200, 5))
    assert len({*split_by_images([[*pair] for pair in pairwise(images)])}) == 1


@installed
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--env", "one_square"], "images with a text behind them"),
        (["--env", "color_words"], "without end"),
        (["--env", "no_such"], "no installed package"),
        (["digits", "--env", "square_first"], "leave out TASK"),
        (["--env", "square_first", "--model", "small"], "cold start on traces"),
        (["--env", "square_first", "--cold-start"], "--cold-start is for"),
        (["--env", "square_first", "--dry-run"], "--dry-run plans"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in refused(invoke("training.cli", *words, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()

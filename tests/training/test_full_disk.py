"""A disk that fills while a run or an evaluation writes: one sentence, nothing is lost, and both go on behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.processes import invoke, refused
from tests.training.conftest import TINY

pytestmark = pytest.mark.slow
MIB = 1 << 20


def mount(folder: Path, size: int, options: str = "") -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "test", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a disk in memory of a MiB; `grow` makes it larger."""
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, MIB)
    except subprocess.CalledProcessError:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def filling(disk: Path, begun: Path) -> Iterator[None]:
    """Inside, somebody else fills a disk as soon as a folder is there."""

    def fill() -> None:
        while not begun.exists():
            time.sleep(0.01)
        with suppress(OSError), (disk / "other").open("wb") as other:
            while True:
                other.write(bytes(MIB))

    other = Thread(target=fill, daemon=True)
    other.start()
    yield
    other.join()


def test_a_run_goes_on_behind_a_full_disk(small_disk: Path, few_digits: Path, random_checkpoint: Path) -> None:
    out = small_disk / "run"
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, "--cold-start"]
    words += ["--traces", "8", "--steps", "8", "--set", "per_device_train_batch_size=8", "--set", "save_steps=1"]
    mount(small_disk, 200 * MIB, "remount,")  # a checkpoint takes about 15
    with filling(small_disk, out / "checkpoint-1"):
        ended = invoke("training.cli", *words)
    assert ended.returncode == 2, ended.stderr
    sentence = ended.stderr.splitlines()[-1]  # behind the progress bar
    assert sentence.startswith("r1vlm-train: can't")
    assert f"can't write a checkpoint to {out}: no space left" in sentence
    assert "--resume" in sentence
    whole = len(list(out.glob("*check*")))
    assert 1 <= whole < 8
    assert not (out / ".saving").exists()
    (small_disk / "other").unlink()
    done = invoke("training.cli", *words, "--resume")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))


def test_room_for_a_cold_start_is_looked_for(small_disk: Path, few_digits: Path, random_checkpoint: Path) -> None:
    mount(small_disk, 35 * MIB, "remount,")  # for two checkpoints
    words = ["digits", "--data", few_digits, "--out", small_disk / "run", "--set", "save_steps=1", "--no-report"]
    alone = ["--model", random_checkpoint, "--cold-start", "--steps", "8"]
    assert "8 at a time" in refused(invoke("training.cli", *words, *alone))
    assert "8 at a time" not in refused(invoke("training.cli", *words, *alone, "--set", "save_total_limit=4"))
    mount(small_disk, 20 * MIB, "remount,")  # for one checkpoint of the built-in model, and not for one of each stage
    assert "free some" in refused(invoke("training.cli", *words, "--model", "small", "--steps", "1"))
    assert not list(small_disk.iterdir())


def test_room_for_all_checkpoints_that_a_run_keeps_is_looked_for(
    small_disk: Path, few_digits: Path, random_checkpoint: Path
) -> None:
    mount(small_disk, 70 * MIB, "remount,")  # for three
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", small_disk / "run", *TINY]
    words += ["--steps", "8", "--set", "save_steps=1"]
    sentence = refused(invoke("training.cli", *words))
    assert "8 at a time" in sentence
    assert "save_total_limit=1" in sentence
    assert not list(small_disk.iterdir())


def test_a_full_cache_is_named_with_its_variable(
    small_disk: Path, few_digits: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1VLM_CACHE", str(small_disk))
    (small_disk / "full").write_bytes(bytes(MIB - 8192))
    words = [random_checkpoint, "--data", few_digits, "--out", tmp_path / "out", "--max-new-tokens", "200"]
    words += ["--samples", "40", "--batch-size", "40"]
    done = invoke("evaluation.cli", *words)
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.splitlines()[-1]  # behind the progress bar
    assert f"can't write {small_disk}/" in sentence
    assert "R1VLM_CACHE" in sentence

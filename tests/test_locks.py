"""File systems that can't lock: the commands go on, two processes still don't meet, and a crash is got over."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from datagen.common.errors import UserError
from datagen.common.locks import _report_no_flock, locked_folder
from datagen.dataset import build
from datagen.dataset.build import LOCK, begin_folder
from evaluation.completion_cache import open_cache
from tests.processes import invoke, kill_when, refused
from training.run_folder import hold_folder

WITHOUT_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "no locks")
fcntl.flock = flock
"""
BUILD = ("build", "digits", "--workers", "1", "--out")


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every `flock` of this process ends with that error."""

    def flock(*_: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    _report_no_flock.cache_clear()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_everything_that_locks_goes_on_and_says_so_once(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_flock(monkeypatch, number)
    done = invoke("datagen.cli", *BUILD, tmp_path / "data", "--size", "40")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 1
    assert not [path for path in (tmp_path / "data").iterdir() if path.name.startswith(".")]
    with hold_folder(tmp_path / "run"):
        (tmp_path / "run" / "run.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with open_cache({}) as cache:
            cache.add_seconds(1)
    assert cache.seconds == 2
    assert capsys.readouterr().err.count("has no locks") == 2  # the run folder, and the cache


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF])
def test_a_folder_that_can_not_be_locked_is_worked_in_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked_folder(tmp_path, "busy"), pytest.raises(UserError, match="busy"), locked_folder(tmp_path, "busy"):
        pytest.fail("two hold one lock")
    without_flock(monkeypatch, number)
    with locked_folder(tmp_path, "busy"), locked_folder(tmp_path, "busy"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("soft", [False, True])
def test_a_folder_that_is_renamed_while_its_lock_is_asked_for_is_a_sentence(
    soft: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another build ends just now."""

    def begun_and_moved(folder: Path) -> Path:
        partial = begin_folder(folder)
        partial.rmdir()
        return partial

    if soft:
        without_flock(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(build, "begin_folder", begun_and_moved)
    assert "another process is building in" in refused(invoke("datagen.cli", *BUILD, tmp_path / "data", "--size", "40"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_library_that_cannot_lock_its_cache_gets_a_sentence(
    number: int, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch, number)
    said = refused(invoke("datagen.cli", "preview", digits_folder, "--out", tmp_path / "p.png"))
    assert "a library can't lock its cache: set HF_HOME" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_lock_of_a_process_that_died_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_FLOCK)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    without_flock(monkeypatch, errno.ENOLCK)
    words = [*BUILD, tmp_path / "data", "--size", "20000"]  # it must not be done before it is asked
    lock = tmp_path / "data.partial" / LOCK
    sentences = []

    def refused_once() -> bool:
        if next(lock.parent.glob("raw/*.parquet"), None):
            sentences.append(refused(invoke("datagen.cli", *words)))
        return bool(sentences)

    kill_when(refused_once, "datagen.cli", *words, env=environment)
    assert f"another process is building in {lock.parent}" in sentences[0]
    assert f"delete {lock}, if that process is gone" in sentences[0]
    assert lock.exists()
    done = invoke("datagen.cli", *words)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data" / LOCK).exists()

"""Variables of a launcher in the environment, which nobody has unset: a sentence, and no silent wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import command, invoke, refused


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "2"}, "the environment has WORLD_SIZE, and no RANK and no LOCAL_RANK"),
        ({"RANK": "3"}, "RANK=3 in the environment is none of 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 in the environment is none of 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' in the environment is no number"),
        ({"LOCAL_RANK": "0"}, "and no RANK"),
    ],
)
def test_ranks_that_no_launcher_sets_are_refused(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sentence = refused(invoke("training.cli", "digits", cwd=tmp_path))
    assert says in sentence
    assert "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT" in sentence


@pytest.mark.slow
def test_a_wait_for_processes_that_nobody_started_is_announced_and_ends_with_ctrl_c(
    few_digits: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    stale = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", tmp_path / "run", "--cold-start"]
    with subprocess.Popen(
        command("training.cli", *words), env=os.environ | stale, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "waits" in line)
        assert f"process 0 of 2 waits for the others at 127.0.0.1:{port}" in said
        assert "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT" in said
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert time.monotonic() - started < 10
    assert not (tmp_path / "run" / "run.json").exists()

"""What `docs/promises.md` says of all commands together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import TINY

# The libraries read their settings when they are imported, hence a process. Workers of a build speak AF_UNIX.
WITHOUT_NETWORK = """
import socket, sys
from tests.processes import invoke
connect = socket.socket.connect
def refuse(*address, **_):
    print("asked", *address, flush=True)
    raise OSError("there is no network here")
def connect_here(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket.connect, socket.getaddrinfo = connect_here, refuse
if __name__ == "__main__":
    few, model, out, *tiny = sys.argv[1:]
    run = f"{out}/run"
    for command, *words in (
        ("datagen", "build", "digits", "--size", "10", "--workers", "1", "--out", f"{out}/digits"),
        ("datagen", "verify", f"{out}/digits"),
        ("training", "digits", "--data", few, "--model", model, "--out", run, "--steps", "1", "--no-report", *tiny),
        ("evaluation", f"{run}/final", "--out", f"{out}/eval", "--report", "--max-new-tokens", "8"),
    ):
        done = invoke(f"{command}.cli", *words)
        print(command, done.returncode, done.stderr[-500:] if done.returncode else "", flush=True)
"""


@pytest.mark.slow
def test_nothing_connects_where_everything_is_here(few_digits: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WITHOUT_NETWORK)
    env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "CI")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HOME": str(tmp_path / "home")}
    words = [sys.executable, tmp_path / "script.py", few_digits, random_checkpoint, tmp_path, *TINY]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=env, timeout=240)
    assert [line.strip() for line in done.stdout.splitlines()] == [
        *("datagen 0", "datagen 0", "training 0", "evaluation 0")
    ], done.stderr

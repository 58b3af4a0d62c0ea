"""Commands at work, which can be killed: processes of their own, that write what they print into a file."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.processes import command

LIMIT = 240.0  # seconds that a command may take
LOADED = [
    "training.cli",
    "training.trainers.grpo",
    "training.trainers.sft",
    "evaluation.cli",
    "evaluation.evaluator",
    "evaluation.backends.transformers",
    "evaluation.backends.openai",
]


@dataclass(frozen=True)
class Job:
    """A command at work, in a session of its own."""

    process: subprocess.Popen[bytes] | BaseProcess
    log: Path

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit status; None while it is at work."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = LIMIT) -> int | None:
        """Its exit status, or None as soon as `until` holds.

        Raises:
            TimeoutError: where neither comes in time; the command is killed.
        """
        deadline = time.monotonic() + seconds
        while self.code is None and not until():
            if time.monotonic() > deadline:
                self.kill(everyone=True)
                raise TimeoutError(f"no end after {seconds:.0f} s: {self.said[-300:]}")
            time.sleep(0.01)
        return self.code

    def kill(self, *, everyone: bool) -> None:
        """SIGKILL to the command alone, as from a machine short of memory, or to all that it has started as well."""
        pid = self.process.pid
        if pid is None:
            raise RuntimeError("it was never started")
        (os.killpg if everyone else os.kill)(pid, signal.SIGKILL)
        while self.code is None:
            time.sleep(0.01)


def start(log: Path, env: Mapping[str, str], module: str, *words: str | Path) -> Job:
    """Start a command as a shell does."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command(module, *words), stdout=file, stderr=file, env={**os.environ, **env}, start_new_session=True
        )
    return Job(process, log)


def fork(log: Path, env: Mapping[str, str], module: str, *words: str | Path) -> Job:
    """Fork a command from a process that has loaded torch, TRL and transformers, which takes twenty seconds.

    They read no variable of `env` when they are loaded.
    """
    forkserver.set_forkserver_preload(LOADED)
    arguments = (log, dict(env), module, [str(word) for word in words])
    process = multiprocessing.get_context("forkserver").Process(target=_become, args=arguments)
    log.touch()
    process.start()
    return Job(process, log)


def _become(log: Path, env: Mapping[str, str], module: str, words: list[str]) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(env)
    sys.argv = [module, *words]
    importlib.import_module(module).main()

"""Running our commands as real processes."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch


def command(module: str, *words: str | Path) -> list[str]:
    """The command line of one of our commands, as this Python runs it."""
    return [sys.executable, "-m", module, *map(str, words)]


def run(
    module: str, *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in another environment where one is given."""
    return subprocess.run(
        command(module, *words), check=False, capture_output=True, text=True, cwd=cwd, env=env, timeout=300
    )


def invoke(module: str, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, as the shell would: a hundredth of the time of a process that imports torch.

    For what ends before anything is loaded or trained; a command that changes its process needs one of its own.
    """
    main, arguments = importlib.import_module(module).main, [module, *map(str, words)]
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        patch.object(sys, "argv", arguments),
        patch.dict(os.environ),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that ended with exit code 2; fails where it said more, or something else."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def kill_when(ready: Callable[[], bool], module: str, *words: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Start a command in a process group of its own and SIGKILL its first process as soon as `ready`."""
    with subprocess.Popen(
        command(module, *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 240
        while not ready():
            assert process.poll() is None, f"ended before it could be killed: {process.communicate()[1]}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

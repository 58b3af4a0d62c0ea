"""Runs a command, and ends with it every process that it ever started.

    python -m training.launch.process_supervisor GRACE COMMAND...

The launcher keeps the supervisor's standard input open. When it closes, because the launcher wants the end or was
killed, or when the command ends, whatever is left gets SIGTERM, and SIGKILL after GRACE seconds. Process groups would
not do: torchrun puts its workers into sessions of their own. The supervisor is a subreaper instead (prctl(2),
PR_SET_CHILD_SUBREAPER), so that orphans become its children and none can get away.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends.

    Raises:
        OSError: where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """The living processes under a process, this one unless another is named; parents come before their children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process for process in psutil.Process(pid).children(recursive=True) if is_alive(process)]
    return []


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended and waits for its parent does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those of the processes that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def end_all(grace: float) -> None:
    """End every process under this one: SIGTERM, and SIGKILL after `grace` seconds. Returns when none is left."""
    send(descendants(), signal.SIGTERM)
    deadline = time.monotonic() + grace
    while left := descendants():
        if time.monotonic() >= deadline:
            send(left, signal.SIGKILL)
        reap()
        time.sleep(0.05)
    reap()


def reap() -> None:
    """Take leave of children that have ended, so that their numbers become free."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _wait_for_end_of_input(closed: threading.Event) -> None:
    sys.stdin.buffer.read()
    closed.set()


def main() -> None:
    """Run the command of the command line to its end, or to the end of our standard input."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a hang is ended with SIGABRT, for the stacks alone
    closed = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: closed.set())
    threading.Thread(target=_wait_for_end_of_input, args=(closed,), daemon=True).start()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"can't start {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
    while child.poll() is None and not closed.wait(0.1):
        pass
    code = child.poll()
    end_all(grace)
    sys.stderr.flush()
    os._exit(code if code is not None and code >= 0 else 128 - (code or -signal.SIGTERM))


if __name__ == "__main__":
    main()

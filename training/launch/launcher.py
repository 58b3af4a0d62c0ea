"""Starts the processes of a plan, shows the trainer's progress, and leaves none of them behind, however it ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from datagen.common.errors import UserError
from datagen.common.files import METRICS
from training.distributed import SUPERVISED
from training.launch.planner import Job, LaunchPlan, Ports, make_plan
from training.launch.process_supervisor import adopt_orphans, descendants, end_all, is_alive, send

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
FAILED, HUNG = 1, 124  # exit codes; 124 as of timeout(1)
LAST_LINES = 20


@dataclass
class Child:
    """A job that was started: the supervisor that runs it, and the log of what it prints."""

    name: str
    log: Path
    supervisor: subprocess.Popen[bytes]

    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""
        code = self.supervisor.poll()
        if code is None:
            return None
        if code < 0:
            return "lost its supervisor process"
        if code > 128:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(code - 128).name}"
        return f"ended with exit code {code}"

    def last_lines(self) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        lines = [line for line in text.splitlines() if line.strip()]
        return "\n".join(lines[-LAST_LINES:])


class LaunchError(Exception):
    """A run that can't go on. `code` is the exit code: 1 where a process failed, 124 where no step came in time."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def launch(plan: LaunchPlan, *, watchdog: float) -> None:
    """Start the server, then the trainer, and wait for its good end.

    Raises:
        UserError: where the run folder can't be written.
        LaunchError: where either side fails, or no step comes within `watchdog` seconds.
        KeyboardInterrupt: for SIGINT, SIGTERM and SIGHUP.
    """
    plan = make_plan(plan.request, plan.preset, plan.machine, free_ports())
    jobs = {job.name: job for job in plan.jobs}
    trainer = replace(jobs["trainer"], environment=jobs["trainer"].environment | {SUPERVISED: "1"})
    supervise(plan.request.out, trainer, jobs.get("server"), plan.ports.server, watchdog)


def supervise(out: Path, trainer: Job, server: Job | None, port: int, watchdog: float, *, grace: float = GRACE) -> None:
    """Run a trainer in the folder `out`, with a server that answers at a port where there is one; see `launch`.

    What is ended gets `grace` seconds between SIGTERM and SIGKILL.

    Raises:
        UserError: where `out` can't be written, or the server or the trainer ends with an error, or stands still.
    """
    logs = out / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't write to {out} ({error.strerror}): name another folder with --out") from error
    adopt_orphans()  # of a supervisor that is killed
    children: list[Child] = []
    with _ending(children, grace):
        if server is not None:
            children.append(start(server, logs, grace))
            print(f"waiting for vLLM at 127.0.0.1:{port}; its log is {children[0].log}", flush=True)
            _await_answer(children[0], port, watchdog)
        children.append(start(trainer, logs, grace))
        _await_end(children, out, watchdog)


def start(job: Job, logs: Path, grace: float) -> Child:
    """Start a job under a supervisor; what it prints is appended to its log."""
    log = logs / f"{job.name}.log"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # vllm and accelerate are there
    with log.open("ab") as file:
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.launch.process_supervisor", str(grace), *job.command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path, **job.environment},
            start_new_session=True,  # Ctrl-C is for the launcher, which then says what to do
        )
    return Child(job.name, log, supervisor)


def stop(children: list[Child], grace: float) -> None:
    """End all children and whatever they started; returns when nothing is left."""
    for child in children:
        if child.supervisor.stdin is not None:
            child.supervisor.stdin.close()
    deadline = time.monotonic() + grace + 5
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.supervisor.wait(max(0.1, deadline - time.monotonic()))
    end_all(0)


def _await_answer(server: Child, port: int, seconds: float) -> None:
    """Wait until the server is healthy.

    Raises:
        LaunchError: where it ends before, or does not answer in so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        _check([server])
        if _healthy(port):
            return
        if time.monotonic() > deadline:
            _dump([server])
            raise LaunchError(
                HUNG,
                f"the server did not answer within {seconds / 60:g} minutes: its stacks are in {server.log}; where it "
                "only needs longer, raise --watchdog",
            )
        time.sleep(0.5)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _await_end(children: list[Child], out: Path, watchdog: float) -> None:
    """Show what the trainer prints until it ends well.

    Raises:
        LaunchError: where one of the children ends otherwise, or no step comes within `watchdog` seconds.
    """
    trainer = children[-1]
    started = time.time()
    with trainer.log.open("rb") as log:
        log.seek(0, os.SEEK_END)
        while True:
            complete = trainer.supervisor.poll() == 0
            _show(log)
            if complete:
                return
            _check(children)
            if time.time() - max(started, last_step(out)) > watchdog:
                _dump(children)
                logs = " and ".join(str(child.log) for child in children)
                raise LaunchError(
                    HUNG,
                    f"no step within {watchdog / 60:g} minutes: all processes are stopped, and their stacks are in "
                    f"{logs}; where a step only takes longer, raise --watchdog, and go on with --resume",
                )
            time.sleep(0.2)


def _show(log: Any) -> None:
    """Pass on what the trainer has printed since, its progress bar with it."""
    if text := log.read():
        sys.stderr.buffer.write(text)
        sys.stderr.flush()


def _check(children: list[Child]) -> None:
    """Raise `LaunchError` where a child has ended: the first of them is the cause."""
    for child in children:
        if ending := child.ended():
            raise LaunchError(
                FAILED, f"the {child.name} {ending}; the last lines of {child.log}:\n{child.last_lines()}"
            )


def _dump(children: list[Child]) -> None:
    """Have every Python process of the children write its stacks to its log, and end.

    Each has Python's fault handler on (PYTHONFAULTHANDLER), vLLM's own included, which writes them on SIGABRT. They
    write one after the other, since several share a log. The rest are stopped meanwhile: none ends because another has.
    """
    processes = [process for child in children for process in reversed(descendants(child.supervisor.pid))]
    send(processes, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    for process in processes:
        send([process], signal.SIGABRT)
        send([process], signal.SIGCONT)
        while is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.01)


@contextlib.contextmanager
def _ending(children: list[Child], grace: float) -> Iterator[None]:
    """However this is left, the children end. It is left as by Ctrl-C where a batch system or the terminal goes away.

    The first signal counts: a second one, of somebody impatient, must not leave processes behind.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def interrupt(*_: object) -> NoReturn:
        ignore()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        ignore()
        stop(children, grace)
        for number, handler in before.items():
            signal.signal(number, handler)


def last_step(out: Path) -> float:
    """The time of the last step in a run folder, in seconds since the epoch; 0 where there was none."""
    path = out / METRICS
    return path.stat().st_mtime if path.exists() else 0.0


def free_ports() -> Ports:
    """Ports that nothing listens on, at random: two runs that start at the same time do not meet.

    They are below those that the system gives to connections, which could take one before it is used.

    Raises:
        UserError: where none is free.
    """
    free = filter(_is_free, random.SystemRandom().sample(range(10_000, 32_768), 1000))
    try:
        return Ports(next(free), next(free), next(free))
    except StopIteration:
        raise UserError("no port is free on this machine: end what listens on them") from None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def watched(out: Path, watchdog: float) -> Iterator[None]:
    """End this process with the stacks of its threads on stderr where no step comes within `watchdog` seconds."""
    over = threading.Event()
    started = time.time()

    def watch() -> None:
        while not over.wait(min(1.0, watchdog / 10)):
            if time.time() - max(started, last_step(out)) > watchdog:
                faulthandler.dump_traceback(all_threads=True)
                print(
                    f"r1vlm-train: no step within {watchdog / 60:g} minutes, the stacks are above: where a step only "
                    "takes longer, raise --watchdog, and go on with --resume",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(HUNG)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()

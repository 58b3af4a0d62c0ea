"""The launcher with real processes that crash, hang, ignore signals and are killed: none is left, and runs go on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from datagen.common.errors import UserError
from tests.processes import command
from training.launch import launcher
from training.launch.launcher import free_ports

pytestmark = pytest.mark.slow
MARK = "R1VLM_TEST_MARK"
GRACE = 1.0  # seconds, ten times as short as a user's


@dataclass
class Launched:
    """A launcher at work; every process it starts, however far removed, has its mark in the environment."""

    process: subprocess.Popen[str]
    out: Path
    mark: str

    def family(self) -> dict[str, int]:
        """The numbers of the living processes, by the last of their arguments that names them."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) != self.mark or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = process.cmdline()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            kinds = [word for word in words if word.endswith(("-server", "-trainer")) or word == "training.cli"]
            role = "supervisor of " if "training.launch.process_supervisor" in words else ""
            launcher = "tests.training.launched" in words and "as" not in words
            name = "launcher" if launcher else role + (kinds[-1] if kinds else f"process {process.pid}")
            found[name] = process.pid
        return found

    def wait_for(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, self.family()
            time.sleep(0.05)

    def end(self) -> tuple[int, str]:
        """Exit code and what was said on stderr; no process may be left."""
        _, said = self.process.communicate(timeout=60)
        deadline = time.monotonic() + 20
        while self.family() and time.monotonic() < deadline:  # a launcher that was killed could not wait for them
            time.sleep(0.1)
        assert self.family() == {}
        return self.process.returncode, said

    def stepped(self) -> bool:
        return (self.out / "metrics.jsonl").exists()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(server: str, *trainer: str, watchdog: float = 60) -> Launched:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out, mark = tmp_path / "run", uuid4().hex
        words = [str(out), str(port), str(watchdog), str(GRACE), server, *trainer]
        process = subprocess.Popen(
            command("tests.training.launched", *words),
            env={**os.environ, MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Launched(process, out, mark))
        return started[-1]

    yield start
    for launched in started:
        for pid in launched.family().values():
            os.kill(pid, signal.SIGKILL)
        launched.process.wait()


def log(out: Path, name: str) -> str:
    return (out / "logs" / f"{name}.log").read_text(encoding="utf-8")


def test_a_good_end_stops_the_server_too(launch: Callable[..., Launched]) -> None:
    run = launch("good-server", "good-trainer")
    code, said = run.end()
    assert code == 0
    assert "I am good-trainer" in said
    assert "I am good-server" in log(run.out, "server")
    assert "I am good-server" not in said
    assert len((run.out / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_trainer_without_a_server(launch: Callable[..., Launched]) -> None:
    assert launch("none", "good-trainer").end()[0] == 0


@pytest.mark.parametrize(
    ("server", "trainer", "says"),
    [
        ("crashing-server", "good-trainer", "the server ended with exit code 3"),
        ("good-server", "crashing-trainer", "the trainer ended with exit code 1"),
        ("stubborn-server", "crashing-trainer", "the trainer ended with exit code 1"),  # SIGKILL after the grace
    ],
)
def test_a_crash_of_either_side_stops_both(
    server: str, trainer: str, says: str, launch: Callable[..., Launched]
) -> None:
    run = launch(server, trainer)
    code, said = run.end()
    assert code == 1
    assert says in said
    if server == "crashing-server":
        assert "out of memory, so to say" in said
        assert "I am" in said.splitlines()[1]
        assert not (run.out / "logs" / "trainer.log").exists()
    else:
        assert "ValueError: no such thing" in said


@pytest.mark.parametrize(
    ("server", "trainer", "hangs"),
    [("good-server", "hanging-trainer", "trainer"), ("deaf-server", "good-trainer", "server")],
)
def test_a_hang_is_ended_with_the_stacks_of_every_process(
    server: str, trainer: str, hangs: str, launch: Callable[..., Launched]
) -> None:
    run = launch(server, trainer, watchdog=3)
    code, said = run.end()
    assert code == 124
    assert "--watchdog" in said
    assert "in stuck_here" in log(run.out, hangs)
    if hangs == "trainer":
        assert "no step within 0.05 minutes" in said
        assert "in serve_forever" in log(run.out, "server")


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, "stubborn"), (signal.SIGTERM, "endless"), (signal.SIGHUP, "endless")]
)
def test_a_signal_to_the_launcher_ends_even_what_ignores_signals(
    number: signal.Signals, kind: str, launch: Callable[..., Launched]
) -> None:
    run = launch("good-server", f"{kind}-trainer")
    run.wait_for(run.stepped)
    run.process.send_signal(number)
    time.sleep(0.2)
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)  # impatience
    code, said = run.end()
    # A signal in the interpreter's last moment ends it by itself: a shell says 130 of that as well.
    assert code in {130, -signal.SIGINT}
    assert "--resume" in said
    assert said.count("r1vlm-train:") == 1


@pytest.mark.parametrize(
    ("victim", "says"),
    [
        ("good-server", "the server was killed by SIGKILL"),
        ("endless-trainer", "the trainer was killed by SIGKILL"),
        ("supervisor of good-server", "the server lost its supervisor process"),
        ("supervisor of endless-trainer", "the trainer lost its supervisor process"),
        ("launcher", None),
    ],
)
def test_any_process_may_be_killed_and_none_is_left(
    victim: str, says: str | None, launch: Callable[..., Launched]
) -> None:
    run = launch("good-server", "endless-trainer")
    run.wait_for(run.stepped)
    family = run.family()
    assert len(family) >= 6  # the launcher, two supervisors, server and trainer, and an orphan
    os.kill(family[victim], signal.SIGKILL)
    code, said = run.end()
    if says is None:
        assert code == -signal.SIGKILL
    else:
        assert code == 1
        assert says in said


def test_a_hang_without_a_launcher_is_ended_too(tmp_path: Path) -> None:
    code = "import pathlib, sys, time\nfrom training.launch.launcher import watched\n"
    code += "with watched(pathlib.Path(sys.argv[1]), 1):\n    time.sleep(60)"
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 124
    assert 'File "<string>", line 4' in done.stderr
    assert "--watchdog" in done.stderr


def test_a_run_meets_no_other_at_ports_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.sample(range(10_000, 32_768), 200)

    class Drawn:
        def sample(self, ports: range, count: int) -> list[int]:
            assert ports == range(10_000, 32_768)  # below those that the system gives to connections
            return drawn[:count]

    monkeypatch.setattr(random, "SystemRandom", Drawn)
    first = set(asdict(free_ports()).values())
    with contextlib.ExitStack() as other_run:
        for port in first:
            other_run.enter_context(socket.socket()).bind(("", port))
        second = set(asdict(free_ports()).values())
    assert len(first | second) == 6


def test_no_free_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_is_free", lambda port: False)
    with pytest.raises(UserError, match="no port is free"):
        free_ports()


def test_a_run_goes_on_after_its_launcher_was_killed(
    launch: Callable[..., Launched], digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """The trainer is ended by its supervisor, as where the server is killed; test_run.py kills a trainer itself."""
    out = tmp_path / "run"
    words = ["-m", "training.cli", "digits", "--data", str(digits_folder), "--model", str(random_checkpoint)]
    words += ["--out", str(out), "--no-report", "--hardware", "cpu", "--steps", "4", "--set", "save_steps=1"]
    words += ["--set", "per_device_train_batch_size=8", "--set", "num_generations=4"]
    words += ["--set", "max_completion_length=32"]
    run = launch("good-server", *words, watchdog=120)
    run.wait_for((out / "checkpoint-1").is_dir)
    os.kill(run.family()["launcher"], signal.SIGKILL)
    assert run.end()[0] != 0
    assert not (out / "final").exists()
    code, said = launch("good-server", *words, watchdog=120).end()
    assert code == 0, said
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert (out / "final").resolve().name == "checkpoint-4"

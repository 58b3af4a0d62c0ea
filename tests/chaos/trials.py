"""What is done to a command, and what must hold then.

What stands under a final name is whole at any moment; the same command goes on; and what comes out in the end is what
comes out of a command to which nothing happened. Each trial returns whether it happened, and raises where it failed.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

from tests.chaos.commands import Command, Push, State
from tests.chaos.jobs import Job
from tests.evaluation.server import reply
from tests.hub import Fault
from tests.loopback import listening

GOES = 8  # how often a command may be refused by a server before it must have got through
STATUSES = (429, 500, 503)


@dataclass(frozen=True)
class Reference:
    """A run to which nothing happens: what came out, the seconds behind its first file, the bytes that it takes."""

    outcome: State
    seconds: float
    bytes: int


class Trial:
    """One trial of a command in a folder of its own; `random` decides on it."""

    def __init__(self, command: Command, reference: Reference, folder: Path, seed: str) -> None:
        self.command, self.reference, self.folder = command, reference, folder
        self.random = random.Random(seed)
        self.place = folder / "place"
        self.place.mkdir()

    def start(self) -> Job:
        """Begin, or go on."""
        return self.command.start(self.place, self.folder / f"{len(list(self.folder.glob('*.log')))}.log")

    def moment(self) -> float:
        """Seconds to wait behind the first file: at random, to the end of a run to which nothing happens."""
        return self.random.uniform(0, self.reference.seconds)

    def check_settled(self) -> None:
        """Check that all that is there under its final name is whole."""
        settled = self.command.settled(self.place)
        expected = {name: self.reference.outcome.get(name) for name in settled}
        assert settled == expected, f"not whole: {different(settled, expected)}"
        if self.command.atomic and settled:
            assert settled.keys() == self.reference.outcome.keys(), "only a part of it is there"

    def finish(self) -> None:
        """Let the command go on to its end, and check what comes out."""
        job = self.start()
        assert job.wait() == 0, f"it did not go on: {job.said[-800:]}"
        outcome = self.command.outcome(self.place)
        assert outcome == self.reference.outcome, f"another outcome: {different(outcome, self.reference.outcome)}"


def different(found: State, expected: State) -> str:
    """The names under which two states differ, and the first difference."""
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return f"{names[:5]}: {first_difference(found.get(names[0]), expected.get(names[0]))}" if names else "none"


def first_difference(found: Any, expected: Any) -> str:
    """Where two values differ: of logs, the first lines that do, in the fields that do."""
    if isinstance(found, list) and isinstance(expected, list):
        for number, (one, other) in enumerate(zip_longest(found, expected, fillvalue={}), 1):
            if one != other:
                return f"line {number}: {first_difference(fields_beside(one, other), fields_beside(other, one))}"
    return f"{str(found)[:300]} != {str(expected)[:300]}"


def fields_beside(line: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The fields of a line that another one has not, or has with other values."""
    return {name: value for name, value in line.items() if (name, value) not in other.items()}


def check_sentence(job: Job) -> None:
    """Check that a command ended with one sentence that says what to do."""
    assert job.code == 2, (job.code, job.said[-1500:])
    assert "Traceback" not in job.said, job.said[-1500:]
    assert job.said.strip().splitlines()[-1].lstrip("\r").startswith("r1vlm-"), job.said[-500:]


def refer(command: Command, folder: Path) -> Reference:
    """Run a command to which nothing happens, on a disk that is large enough."""
    with disk(folder / "place", 1 << 30) as place:
        job = command.start(place, folder / "0.log")
        job.wait(lambda: command.begun(place))
        begun = time.monotonic()
        assert job.wait() == 0, job.said[-1500:]
        seconds = time.monotonic() - begun
        about = os.statvfs(place)
        return Reference(command.outcome(place), seconds, (about.f_blocks - about.f_bfree) * about.f_frsize)


def kill(trial: Trial) -> bool:
    """SIGKILL at a random moment, once or twice, to the command alone or to all its processes."""
    killed = False
    for _ in range(trial.random.choice((1, 2))):
        job = trial.start()
        job.wait(lambda: trial.command.begun(trial.place))
        end = time.monotonic() + trial.moment()
        if job.wait(lambda: time.monotonic() > end) is None:  # noqa: B023 - called in this turn of the loop
            job.kill(everyone=trial.random.random() < 0.5)
            killed = True
        trial.check_settled()
    trial.finish()
    return killed


def fill(trial: Trial) -> bool:
    """A disk that is too small, at random; then it grows."""
    size = int(trial.random.uniform(0.02, 0.95) * trial.reference.bytes)
    with disk(trial.place, size):
        job = trial.start()
        full = job.wait() != 0
        if full:
            check_sentence(job)
            trial.check_settled()
        subprocess.run(["mount", "-o", "remount,size=1g", trial.place], check=True)
        trial.finish()
    return full


def double(trial: Trial) -> bool:
    """The same command twice at the same time: one does it, the other says so or finds it done."""
    first = trial.start()
    time.sleep(trial.random.choice((0, trial.moment())))
    second = trial.start()
    for job in (first, second):
        if job.wait() != 0:
            check_sentence(job)
    assert 0 in (first.code, second.code), (first.said[-500:], second.said[-500:])
    trial.check_settled()
    trial.finish()
    return True


def storm(trial: Trial) -> bool:
    """A server that answers 429, 500 or 503, or cuts the connection, at random."""
    before = len(Storm.met)
    with Storm.raging(trial.random.uniform(0.1, 0.5)):
        if isinstance(trial.command, Push):
            rage(trial.command, trial)
        for _ in range(GOES):
            job = trial.start()
            if job.wait() == 0:
                break
            check_sentence(job)
            trial.check_settled()
    met = len(Storm.met) > before or isinstance(trial.command, Push)
    trial.finish()
    return met


def rage(push: Push, trial: Trial) -> None:
    """Let the Hub fail in a dozen requests about a repository, at random."""
    repo = push.repo(trial.place)
    for _ in range(12):
        method = trial.random.choice(("GET", "HEAD", "POST", "POST"))
        answer = trial.random.choice((*STATUSES, "cut", "lost"))
        push.hub.faults.append(Fault(method, trial.random.choice((repo, f"{repo}.*(commit|batch)")), answer, 1))


KINDS: dict[str, Callable[[Trial], bool]] = {"kill": kill, "disk": fill, "two": double, "storm": storm}


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes, for as long as the block runs."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "chaos", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


class Storm(BaseHTTPRequestHandler):
    """A server that has the model `served`; a share `rate` of the requests for an answer gets none."""

    protocol_version = "HTTP/1.1"
    rate: ClassVar[float] = 0.0
    met: ClassVar[list[Any]] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[str]:
        """The address of the server, which runs for as long as the block does."""
        with listening(cls) as address:
            yield f"{address}/v1"

    @classmethod
    @contextmanager
    def raging(cls, rate: float) -> Iterator[None]:
        """Fail for as long as the block runs."""
        cls.rate = rate
        try:
            yield
        finally:
            cls.rate = 0.0

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def answer(self, status: int, value: Any, *, cut: bool = False) -> None:
        """Send a value, or half of it."""
        import json

        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def do_GET(self) -> None:
        """The models."""
        self.respond({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        """An answer, which depends on the question alone."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.respond(reply(f" read it.</think>\n<answer>{sum(body) % 10}</answer>"))

    def respond(self, value: Any) -> None:
        """Send a value, or fail."""
        if random.random() >= self.rate:
            self.answer(200, value)
            return
        fault = random.choice((*STATUSES, "cut", "hang up"))
        self.met.append(fault)
        if fault == "hang up":
            self.close_connection = True
        elif fault == "cut":
            self.answer(200, value, cut=True)
        else:
            self.answer(int(fault), {"error": "not now"})

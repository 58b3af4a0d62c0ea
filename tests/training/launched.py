"""A launcher with a server and a trainer that do what a test wants:  python -m tests.training.launched OUT PORT ..."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from datagen.common.command_line import run_command
from training.launch.launcher import LaunchError, supervise
from training.launch.planner import Job

TRAINER = ["-m", "tests.training.launched", "as"]


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def orphan() -> None:
    """A process of its own session, as torchrun's workers are, whose parent ends at once."""
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True)


def step(out: Path, number: int) -> None:
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": number}) + "\n")


def stuck_here() -> None:
    time.sleep(600)


def act(kind: str, out: Path, port: int) -> None:
    """What a server or a trainer of this kind does."""
    print(f"I am {kind}", flush=True)
    if kind in ("good-server", "stubborn-server"):
        orphan()
        if kind == "stubborn-server":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
    if kind == "crashing-server":
        print("out of memory, so to say", flush=True)
        sys.exit(3)
    if kind in ("deaf-server", "hanging-trainer"):
        orphan()
        stuck_here()
    if kind == "crashing-trainer":
        orphan()
        raise ValueError("no such thing")
    if kind == "stubborn-trainer":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        orphan()
    for number in range(1, 4 if kind == "good-trainer" else 6000):
        step(out, number)
        time.sleep(0.1)


def job(name: str, words: list[str]) -> Job:
    return Job(name, [sys.executable, *words], {"PYTHONFAULTHANDLER": "1"})


def main() -> None:
    if sys.argv[1] == "as":
        act(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    out, port, watchdog, grace, server, *trainer = sys.argv[1:]
    known = [*TRAINER, *trainer, out, port] if len(trainer) == 1 else trainer
    serving = None if server == "none" else job("server", [*TRAINER, server, out, port])
    os.environ["R1VLM_LAUNCHED"] = "1"
    try:
        supervise(Path(out), job("trainer", known), serving, int(port), float(watchdog), grace=float(grace))
    except LaunchError as error:
        print(f"r1vlm-train: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    run_command("r1vlm-train", main)

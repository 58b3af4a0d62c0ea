"""What is promised of commands that are killed, or meet full disks, their like, or failing servers: `make test-chaos`.

`python -m tests.chaos [KIND/COMMAND ...]`, such as `kill/train`, or `kill` for all commands. What was tried is kept in
`benchmarks/results/chaos.json`, and `--go-on` goes on with it; the table is that of benchmarks/RESULTS.md. Ends with 1
where a trial failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from datagen.common.files import write_json
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from tests.chaos.commands import Build, Command, Evaluate, Push, Train
from tests.chaos.trials import KINDS, Reference, Storm, Trial, refer
from tests.hub import running

KEPT = Path("benchmarks/results/chaos.json")
TRIALS = 10  # of each kind for each command
AT_ONCE = 2
COMMANDS = ("build", "train", "eval", "push")
OWN = "R1VLM_CHAOS"  # set in the process that has disks of its own
SAID = {
    "kill": "SIGKILL at a random moment, once or twice",
    "disk": "a disk that is too small",
    "two": "the same command twice at once",
    "storm": "429, 500, 503 and cut connections",
}


def main() -> None:
    """Make the trials that are asked for, keep what came out, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="KIND/COMMAND")
    parser.add_argument("--go-on", action="store_true", help="add to what was tried before")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r1vlm-chaos-", ignore_cleanup_errors=True) as folder:
        os.environ["HF_HOME"] = f"{folder}/home"
        failed = try_all(Path(folder), given.names, go_on=given.go_on)
    print_table()
    sys.exit(1 if failed else 0)


def try_all(folder: Path, names: list[str], *, go_on: bool) -> bool:
    """Make all trials whose names are asked for; returns whether one failed."""
    small, older = (
        build(DatasetConfig(dataset="digits", size=100, seed=seed), folder / f"data-{seed}", executor=map)
        for seed in (1, 2)
    )
    failed = False
    with running() as hub, Storm.running() as endpoint:

        @cache
        def reference(command: Command) -> Reference:
            return refer(command, Path(tempfile.mkdtemp(dir=folder)))

        @cache
        def run() -> Path:
            """A trained run, from whose checkpoints others start."""
            job = Train(small).start(folder / "trained", folder / "trained.log")
            assert job.wait() == 0, job.said
            return folder / "trained" / "run"

        def command(kind: str, name: str) -> Command:
            """What is tried; a cold start takes time, and is killed alone."""
            if name == "train":
                return Train(small, None if kind == "kill" else run() / "cold-start" / "final")
            if name == "eval":
                return Evaluate(small, run(), endpoint if kind == "storm" else None)
            return Build() if name == "build" else Push(small, older, hub)

        for kind in KINDS:
            for name in COMMANDS if kind != "storm" else ("eval", "push"):
                if not names or kind in names or f"{kind}/{name}" in names:
                    tried = command(kind, name)
                    failed |= try_often(kind, tried, reference(tried), folder, go_on=go_on)
    return failed


def try_often(kind: str, command: Command, reference: Reference, folder: Path, *, go_on: bool) -> bool:
    """Try it until it has happened often enough, and keep the count; returns whether a trial failed."""
    name = f"{kind}/{command.name}"
    kept = read_kept()
    row = kept[name] = {"tried": 0, "failed": 0, "seconds": 0.0, **(kept.get(name, {}) if go_on else {})}

    def one(number: int) -> tuple[bool, bool]:
        """Whether it happened, and whether it failed."""
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            happened = KINDS[kind](Trial(command, reference, place, seed=f"{name} {number}"))
        except (AssertionError, TimeoutError, OSError) as error:
            traceback.print_exception(error)
            return True, True
        shutil.rmtree(place)
        return happened, False

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(row["tried"], 3 * TRIALS, AT_ONCE):
            if row["tried"] >= TRIALS:
                break
            started = time.monotonic()
            for happened, failed in pool.map(one, range(number, number + AT_ONCE)):
                row["tried"] += happened
                row["failed"] += failed
            row["seconds"] = round(row["seconds"] + time.monotonic() - started, 1)
            write_json(KEPT, kept)
    print(f"{name}: {row['tried']} tried, {row['failed']} failed, {row['seconds']} s", file=sys.stderr, flush=True)
    return bool(row["failed"])


def read_kept() -> dict[str, Any]:
    """What was tried before."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def print_table() -> None:
    """The table of all that is kept."""
    kept = read_kept()
    print("| what happens | command | tried | failed | seconds |\n|---|---|---:|---:|---:|")
    for kind, said in SAID.items():
        for name in COMMANDS:
            if row := kept.get(f"{kind}/{name}"):
                print(f"| {said} | {name} | {row['tried']} | {row['failed']} | {row['seconds']:.0f} |")


def with_own_disks() -> None:
    """Go on in a namespace of mounts of our own: nobody else sees the disks, and they end with us."""
    mapping = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--mount", *mapping, sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False, env={**os.environ, OWN: "1"}).returncode)


if __name__ == "__main__":
    main() if OWN in os.environ else with_own_disks()

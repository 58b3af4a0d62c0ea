"""The commands that are put to the test, what each leaves under its final names, and what comes out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from datagen.common.files import sha256
from tests.chaos.jobs import Job, fork, start
from tests.hub import Hub

GRPO = {"save_steps": 2, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 64}
TIMES = ("seconds", "_time")  # how the names of figures end that two runs do not share
State = Mapping[str, Any]


class Command(Hashable, Protocol):
    """A command whose files are all in one folder, its `place`.

    `atomic` says that what it makes appears at once, and is never there in part.
    """

    name: ClassVar[str]
    atomic: ClassVar[bool]

    def start(self, place: Path, log: Path) -> Job:
        """Begin, or go on."""

    def begun(self, place: Path) -> bool:
        """Whether the first thing is written."""

    def settled(self, place: Path) -> State:
        """What stands under its final name at any time, and must be whole there."""

    def outcome(self, place: Path) -> State:
        """What has come out in the end."""


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Build:
    """`r1vlm-data build`, of five shards."""

    name: ClassVar[str] = "build"
    atomic: ClassVar[bool] = True

    def start(self, place: Path, log: Path) -> Job:
        """Begin, or go on."""
        words = ("--size", "3000", "--seed", "3", "--workers", "2", "--out", place / "digits")
        return start(log, {}, "datagen.cli", "build", "digits", *words)

    def begun(self, place: Path) -> bool:
        """Whether the unfinished folder is there."""
        return (place / "digits.partial").exists()

    def settled(self, place: Path) -> State:
        """The dataset."""
        return {name: digest for name, digest in hashes(place).items() if name.startswith("digits/")}

    def outcome(self, place: Path) -> State:
        """All that is there: nothing else is left behind."""
        return hashes(place)


@dataclass(frozen=True)
class Train:
    """`r1vlm-train`: four steps of GRPO with two checkpoints, after a cold start where no `model` is given."""

    data: Path
    model: Path | None = None
    name: ClassVar[str] = "train"
    atomic: ClassVar[bool] = False

    def start(self, place: Path, log: Path) -> Job:
        """Begin, or go on."""
        words: list[str | Path] = [
            "digits",
            "--data",
            self.data,
            "--out",
            place / "run",
            "--traces",
            "4",
            "--steps",
            "4",
            "--resume",
        ]
        words += [word for name, value in GRPO.items() for word in ("--set", f"{name}={value}")]
        words += ["--model", self.model] if self.model else []
        return fork(log, {}, "training.cli", *words, "--eval-steps", "2", "--no-report")

    def begun(self, place: Path) -> bool:
        """Whether the record of the first stage is there."""
        return any((place / "run").glob("**/run.json"))

    def settled(self, place: Path) -> State:
        """The checkpoints: the names of their files, and the weights and moments."""
        files = [path for path in (place / "run").glob("**/checkpoint-*/*") if ".saving" not in path.parts]
        compared = ("model.safetensors", "optimizer.pt", "scheduler.pt")
        return {
            str(path.relative_to(place)): sha256(path) if path.name in compared else ""
            for path in files
            if not path.parent.is_symlink()
        }

    def outcome(self, place: Path) -> State:
        """The checkpoints, every file's name, every step's figures, and every completion."""
        run = place / "run"
        names = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
        logs = {
            str(path.relative_to(run)): [without_times(json.loads(line)) for line in path.read_text().splitlines()]
            for path in run.rglob("*.jsonl")
        }
        return {**self.settled(place), **logs, "names": names, "final": (run / "final").resolve().name}


@dataclass(frozen=True)
class Evaluate:
    """`r1vlm-eval` of a checkpoint beside its cold start, with a report; or of what a server answers."""

    data: Path
    run: Path
    endpoint: str | None = None
    name: ClassVar[str] = "eval"
    atomic: ClassVar[bool] = False

    def start(self, place: Path, log: Path) -> Job:
        """Begin, or go on."""
        words: list[str | Path] = [self.run / "final", "--baseline", self.run / "cold-start" / "final"]
        if self.endpoint:
            words = ["served", "--endpoint", self.endpoint, "--batch-size", "4"]
        words += ["--data", self.data, "--out", place / "eval", "--max-new-tokens", "64", "--report"]
        words += [] if self.endpoint else ["--batch-size", "1"]
        return fork(log, {"R1VLM_CACHE": str(place / "cache")}, "evaluation.cli", *words)

    def begun(self, place: Path) -> bool:
        """Whether the first answer may come."""
        return any((place / "cache").glob("completions/*.jsonl"))

    def settled(self, place: Path) -> State:
        """Every file of the results."""
        return {path.name: result_of(path) for path in (place / "eval").glob("[!.]*")}

    def outcome(self, place: Path) -> State:
        """The same, and the names of all files."""
        return {**self.settled(place), "names": sorted(path.name for path in (place / "eval").iterdir())}


@dataclass(frozen=True)
class Push:
    """`r1vlm-data push` of a dataset, over an older one of ours that the repository holds."""

    data: Path
    older: Path
    hub: Hub
    name: ClassVar[str] = "push"
    atomic: ClassVar[bool] = True

    def repo(self, place: Path) -> str:
        """The repository of a place: each has one of its own."""
        name = f"ada/{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
        if f"datasets/{name}" not in self.hub.repos:
            self.hub.put(f"datasets/{name}", contents(self.older))
        return name

    def start(self, place: Path, log: Path) -> Job:
        """Begin, or go on."""
        env = {"HF_ENDPOINT": self.hub.address, "HF_TOKEN": "hf_writes", "HF_HOME": str(place / "home")}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return start(log, env, "datagen.cli", "push", self.data, "--repo", self.repo(place), "--force")

    def begun(self, place: Path) -> bool:
        """Whether anything was asked about the repository."""
        return any(self.repo(place) in line for line in self.hub.seen)

    def settled(self, place: Path) -> State:
        """What the repository holds; nothing where it is still the older dataset."""
        held = dict(self.hub.repos[f"datasets/{self.repo(place)}"].main)
        return {} if held == contents(self.older) else held

    def outcome(self, place: Path) -> State:
        """What the repository holds."""
        return self.settled(place)


def contents(folder: Path) -> dict[str, bytes]:
    """What every file of a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def result_of(path: Path) -> Any:
    """What a file of results says, without times; of a page that it is whole."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in text.splitlines()]
    return without_times(json.loads(text)) if path.suffix == ".json" else text.rstrip().endswith("</html>")


def without_times(value: Any) -> Any:
    """A value without how long something took."""
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if not name.endswith(TIMES)}
    return [without_times(one) for one in value] if isinstance(value, list) else value

"""Answers that have been paid for: kept as they come, so that an interrupted evaluation goes on where it stopped.

A file for each (model, dataset, prompt, sampling, engine), in `R1VLM_CACHE` or `~/.cache/r1vlm`; a line an answer.
A line that a killed process left half written is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from datagen.common.errors import UserError
from evaluation.completions import SampleKey


class CompletionCache:
    """The answers to some questions: `found` are those that are there, `engine` says what gave them, in `seconds`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.found: dict[SampleKey, str] = {}
        self.engine: dict[str, str] = {}
        self.seconds = 0.0
        self._read()

    def _read(self) -> None:
        whole = 0
        self._file.seek(0)
        for line in self._file:
            try:
                self._take(json.loads(line if line.endswith(b"\n") else b""))
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        self._file.truncate(whole)

    def _take(self, value: Any) -> None:
        if "engine" in value:
            self.engine = {str(name): str(text) for name, text in value["engine"].items()}
        elif "seconds" in value:
            self.seconds += float(value["seconds"])
        else:
            self.found[str(value["id"]), int(value["sample"])] = str(value["completion"])

    def _write(self, value: Mapping[str, Any]) -> None:
        """Add a line. It is on its way to the disk when this returns: the process may be killed."""
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()

    def is_of(self, engine: Mapping[str, str]) -> bool:
        """Whether the answers are this engine's, on this kind of device."""
        return self.engine == engine

    def begin(self, engine: Mapping[str, str]) -> None:
        """Begin anew, with an engine's answers: those of a CPU are not mixed with those of a GPU."""
        self._file.truncate(0)
        self.found, self.engine, self.seconds = {}, dict(engine), 0.0
        self._write({"engine": self.engine})

    def add(self, place: SampleKey, completion: str) -> None:
        """Keep an answer."""
        self._write({"id": place[0], "sample": place[1], "completion": completion})
        self.found[place] = completion

    def took(self, seconds: float) -> None:
        """Keep how long the answers took that were added."""
        self._write({"seconds": seconds})
        self.seconds += seconds


@contextmanager
def open_cache(about: Mapping[str, Any]) -> Iterator[CompletionCache]:
    """The answers of which `about` tells everything that determines them.

    Raises:
        UserError: where another process is adding to them, or the folder can't be written.
    """
    text = json.dumps(about, sort_keys=True)
    path = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise UserError(
            f"can't write to {path.parent} ({error.strerror}): set R1VLM_CACHE to another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another r1vlm-eval is asking the same questions: wait for it, its answers are kept"
            ) from None
        yield CompletionCache(file)


def cache_folder() -> Path:
    """Where answers are kept."""
    return Path(os.environ.get("R1VLM_CACHE") or Path.home() / ".cache" / "r1vlm") / "completions"

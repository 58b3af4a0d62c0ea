"""Completions that have been generated before: kept as they come, so that an interrupted evaluation can go on.

A file for each (model, dataset, prompt, sampling, backend), in `R1VLM_CACHE` or `~/.cache/r1vlm`; a line a completion.
A line that a killed process left half written is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from datagen.common.errors import UserError
from datagen.common.files import cache_folder
from datagen.common.locks import locked

TurnKey = tuple[str, int, int]
"""The id of a question, the number of the sample, and that of the message in its episode."""
BUSY = "another r1vlm-eval is asking the same questions: wait for it, its answers are kept"


class CompletionCache:
    """The completions of one file, the description of the backend that generated them, its notes, and the seconds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.completions: dict[TurnKey, str] = {}
        self.backend: dict[str, str] = {}
        self.notes: list[str] = []
        self.seconds = 0.0
        self._load()

    def _load(self) -> None:
        """Read all whole lines, and cut off what comes behind them."""
        end = 0
        self._file.seek(0)
        for line in self._file:
            try:
                self._load_entry(json.loads(line if line.endswith(b"\n") else b""))
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        self._file.truncate(end)

    def _load_entry(self, entry: Any) -> None:
        if "engine" in entry:
            self.backend = {str(name): str(text) for name, text in entry["engine"].items()}
        elif "note" in entry:
            self.notes.append(str(entry["note"]))
        elif "seconds" in entry:
            self.seconds += float(entry["seconds"])
        else:
            key = str(entry["id"]), int(entry["sample"]), int(entry.get("turn", 0))
            self.completions[key] = str(entry["completion"])

    def _write(self, entry: Mapping[str, Any]) -> None:
        """Add a line. It is on its way to the disk when this returns: the process may be killed."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            while line:  # not by the file's buffer, which would be written again when the file is closed
                line = line[os.write(self._file.fileno(), line) :]
        except OSError as error:
            raise UserError(
                f"can't write {self._file.name} ({error.strerror}): free some of its disk, or set R1VLM_CACHE to a "
                "folder on another; what was answered is kept"
            ) from error

    def reset(self, backend: Mapping[str, str]) -> None:
        """Drop all completions: those of another backend, or of another kind of device, are not mixed with its own.

        Raises:
            UserError: where the file can't be written.
        """
        self._file.truncate(0)
        self.completions, self.backend, self.notes, self.seconds = {}, dict(backend), [], 0.0
        self._write({"engine": self.backend})

    def add(self, key: TurnKey, completion: str) -> None:
        """Keep a completion.

        Raises:
            UserError: where the file can't be written; what was kept before stays.
        """
        name, sample, turn = key
        self._write({"id": name, "sample": sample, **({"turn": turn} if turn else {}), "completion": completion})
        self.completions[key] = completion

    def add_note(self, sentence: str) -> None:
        """Keep a sentence about how the questions were asked, once.

        Raises:
            UserError: where the file can't be written.
        """
        if sentence not in self.notes:
            self._write({"note": sentence})
            self.notes.append(sentence)

    def add_seconds(self, seconds: float) -> None:
        """Keep how long it took to generate the completions that were added.

        Raises:
            UserError: where the file can't be written.
        """
        self._write({"seconds": seconds})
        self.seconds += seconds


@contextmanager
def open_cache(determined_by: Mapping[str, Any]) -> Iterator[CompletionCache]:
    """The cache of the completions that these values determine, locked for other processes.

    Raises:
        UserError: where another process is adding to it, or the folder can't be written.
    """
    path = cache_path(determined_by)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_suffix(".lock"), BUSY))
            file = stack.enter_context(path.open("a+b"))
        except OSError as error:
            raise UserError(
                f"can't write to {path.parent} ({error.strerror}): set R1VLM_CACHE to another folder"
            ) from error
        yield CompletionCache(file)


def cache_path(determined_by: Mapping[str, Any]) -> Path:
    """The file of the completions that these values determine: it is named by their hash."""
    text = json.dumps(determined_by, sort_keys=True)
    return cache_folder("completions") / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"

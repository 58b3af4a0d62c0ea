"""Where answers come from: a checkpoint (a folder, on the Hub, or on a server), or a file of completions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError, strip_password
from datagen.common.files import RECORD, sha256
from datagen.common.formatting import visible
from datagen.hub.checkpoint import adapter_base, missing_parts
from datagen.hub.fetch import download, parse_repo_id
from datagen.hub.record import read_record

if TYPE_CHECKING:
    from datagen.dataset.reader import BuiltDataset

FINGERPRINTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
OF_BASE = ("*.safetensors", "config.json", "generation_config.json")  # the rest an adapter has itself
NOT_FINGERPRINTED = (RECORD, "trainer_state.json")  # they say how the weights came about, not what they answer


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint folder or a `.jsonl` of completions, and what its record says (nothing, for completions).

    `name` opens it again: its path, or USER/NAME@commit on the Hub. Where a server at `endpoint` has the model, it is
    the model's name there, and `path` is a folder only where the weights are here too.
    """

    name: str
    path: Path
    record: Mapping[str, Any]
    endpoint: str | None = None

    @cached_property
    def base(self) -> Path | None:
        """The folder of the model that a LoRA adapter changes; None where the checkpoint is a whole model.

        Raises:
            UserError: where it isn't there.
        """
        return None if self.endpoint is not None else adapter_base(self.path)

    @property
    def is_model(self) -> bool:
        """Whether it answers questions; completions have answered already."""
        return self.endpoint is not None or self.path.is_dir()

    @property
    def label(self) -> str:
        """The last two parts of its path, which tell the checkpoints of several runs apart; its name on the Hub."""
        return visible("/".join(Path(self.name.partition("@")[0]).parts[-2:]))

    @property
    def run(self) -> Path | None:
        """The run folder that holds this checkpoint; None where the one that its record names does not."""
        run, folder = self.record.get("run"), self.path.resolve()
        inside = run is not None and folder.parent == Path(os.path.realpath(run))
        return folder.parent if inside and folder.name == f"checkpoint-{self.record.get('step')}" else None

    @property
    def is_remembered_by_address(self) -> bool:
        """Whether all that is known of the weights is the server that has them, and the name they have there."""
        return self.endpoint is not None and not self.path.is_dir()

    @cached_property  # weights are read for it, and every way of asking wants it
    def fingerprint(self) -> str:
        """SHA-256 of everything in the folder that determines what the model answers; of a server, its address."""
        if self.is_remembered_by_address:
            return hashlib.sha256(f"{strip_password(str(self.endpoint))} {self.name}".encode()).hexdigest()
        files = _files(self.path, FINGERPRINTED) + (_files(self.base, OF_BASE) if self.base else [])
        lines = [f"{path.name} {sha256(path)}" for path in files if path.name not in NOT_FINGERPRINTED]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files in a folder that fit one of some patterns, each once, in order."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def served_model(name: str, endpoint: str) -> ModelSource:
    """The model of that name that a server has. A folder of that name, if there is one, says what it is.

    Raises:
        UserError: where the folder's record is damaged.
    """
    path = Path(os.path.abspath(name))
    return ModelSource(name, path, read_record(path) if path.is_dir() else {}, endpoint)


def open_model(name: str) -> ModelSource:
    """The checkpoint folder or the completions at the path `name`, checked without loading it.

    USER/NAME and USER/NAME@revision name a checkpoint on the Hub, which is downloaded.

    Raises:
        UserError: where it is none of these, or its record is damaged.
    """
    if parse_repo_id(name):
        path, name = download(name, "model")
        _check_checkpoint(path, name)
        return ModelSource(name, path, read_record(path))
    path = Path(os.path.abspath(name))
    if not path.exists():
        raise UserError(f"there is no {name}: name a checkpoint folder or a .jsonl file of completions")
    if not os.access(path, os.R_OK):
        raise UserError(f"can't read {name}: change its permissions")
    if path.is_dir():
        _check_checkpoint(path, name)
        return ModelSource(str(path), path, read_record(path))
    if path.suffix != ".jsonl" or not path.is_file():
        raise UserError(f"{name} is neither a checkpoint folder nor a .jsonl file of completions")
    return ModelSource(str(path), path, {})


def _check_checkpoint(folder: Path, name: str) -> None:
    if missing := missing_parts(folder):
        raise UserError(f"{name} is not a checkpoint folder: it has no {' and no '.join(missing)}")


def record_mismatches(model: ModelSource, dataset: BuiltDataset, tasks: Sequence[str]) -> list[str]:
    """A sentence for each way in which the dataset or the rewards are not those the checkpoint was made with."""
    from datagen.registry import find_task
    from datagen.task import is_current_reward_hash, reward_hash

    mismatches = []
    recorded = model.record.get("dataset_fingerprint", dataset.fingerprint)
    if recorded != dataset.fingerprint:
        mismatches.append(
            f"{model.label} was made with another dataset than {dataset.name} "
            f"(fingerprint {recorded[:12]}, not {dataset.fingerprint[:12]})."
        )
    hashes = {name: digest for name, digest in model.record.get("reward_hash", {}).items() if name in tasks}
    if not all(map(is_current_reward_hash, hashes.values())):
        mismatches.append(
            f"{model.label} records its rewards by an older kind of hash, which covered whole source files: whether "
            "they changed since cannot be told."
        )
        return mismatches
    for name, recorded_hash in hashes.items():
        now = reward_hash(find_task(name))
        if recorded_hash != now:
            mismatches.append(
                f"The rewards of task {name!r} have changed since {model.label} was made "
                f"(code hash {recorded_hash}, now {now})."
            )
    return mismatches

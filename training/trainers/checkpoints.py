"""The record that each checkpoint carries of what made it, and the publishing of one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.common.files import CURVE, RECORD, write_json, write_text
from datagen.common.versions import installed_versions
from datagen.dataset.manifest import code_record
from datagen.hub.cards import CARD, license_of, model_card, public_record
from datagen.hub.fetch import MODEL_FILES
from datagen.hub.publish import Published, PublishTarget, RepoIdentity, publish
from datagen.hub.record import CARD_KEYS, read_record
from datagen.registry import find_dataset_or_task
from training.config import StageConfig
from training.models import base_model_name, model_folder
from training.trl_compat import AtomicCheckpoints

QUESTIONS = "questions.json"  # what decides the next questions, where TRL's sampler does not
NOT_PUBLISHED = ("trainer_state.json", QUESTIONS)  # of use to --resume alone
PACKAGES = ("r1vlm", "torch", "transformers", "trl", "accelerate", "datasets", "numpy")


class RecordedCheckpoints(AtomicCheckpoints):
    """A mixin for transformers' trainers: each checkpoint has its record and its card from the moment it exists.

    `record` is what all checkpoints of the run say; `shown` says what the model has been shown after so many steps.
    """

    record: dict[str, Any]
    shown: Callable[[int], str]

    def complete_checkpoint(self, checkpoint: Path) -> None:
        """Write record and card."""
        step = self.state.global_step
        run = self.record["run_hash"]
        record = {**self.record, "step": step, "checkpoint": f"{run}-{step}", "shown": self.shown(step)}
        write_json(checkpoint / RECORD, record)
        write_text(checkpoint / CARD, model_card(record))


def publish_checkpoint(folder: Path, to: PublishTarget) -> Published:
    """Publish a checkpoint: weights, settings, card, record and reward curve; nothing that only `--resume` needs.

    Raises:
        UserError: where the repository holds another run's, or the Hub refuses.
    """
    paths = [path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.name not in NOT_PUBLISHED]
    files: dict[str, Path | bytes] = {path.name: path for path in paths}
    curve = folder.resolve().parent / CURVE
    if curve.is_file():
        files[CURVE] = curve
    record = public_record(read_record(folder))
    if lacking := CARD_KEYS - record.keys():
        raise UserError(f"{folder / RECORD} has no {min(lacking)!r}: publish a checkpoint as r1vlm-train wrote it")
    files[RECORD] = json.dumps(record, indent=2, ensure_ascii=False).encode()
    files[CARD] = model_card(record, repo=to.repo, curve=curve.is_file()).encode()
    # With the same weights and record it is the same checkpoint: a card with results, published since, stays.
    return publish(to, files, RepoIdentity(RECORD, "run_hash", record["run_hash"]), no_change=CARD)


def make_record(stage: StageConfig, name: str) -> dict[str, Any]:
    """What the checkpoints of a stage say of their making; step and what the model has been shown come with each.

    Raises:
        UserError: where the model is no folder here and can't be fetched.
    """
    base = base_model_name(stage.model)
    identity = [name, base, stage.dataset_fingerprint, stage.tasks, stage.seed, stage.settings]
    return {
        "stage": name,
        "model": stage.model,
        "base_model": base,
        "license": license_of(model_folder(stage.model)),
        "run_hash": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        "dataset": stage.data,
        "dataset_fingerprint": stage.dataset_fingerprint,
        "tasks": stage.tasks,
        **code_record(find_dataset_or_task(stage.tasks[0]).name),
        "reward_hash": stage.reward_hash,
        "run": str(Path(stage.out).resolve()),
        "seed": stage.seed,
        "settings": stage.settings,
        "hardware": hardware_name(),
        "versions": installed_versions(PACKAGES),
        "git_commit": git_commit(),
    }


def traces_shown(stage: StageConfig, base: Mapping[str, Any]) -> int:
    """Of how many of a stage's training questions, the first ones, its model was shown a trace, by its record."""
    ours = base.get("dataset_fingerprint") == stage.dataset_fingerprint and base.get("tasks") == stage.tasks
    return int(base.get("traces", 0)) if ours else 0


def hardware_name() -> str:
    """What this process trains on, such as `1 x NVIDIA H100` or `8 CPU cores`."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores"


def git_commit() -> str | None:
    """The commit this code was run from, with `+` where files differ from it; None outside a git checkout."""

    def git(*words: str) -> str | None:
        try:
            ended = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return ended.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # installed inside somebody else's checkout
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")

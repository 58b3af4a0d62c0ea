"""Checkpoints that are complete or not there, and the record each carries of what made it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from datagen.common.errors import UserError
from datagen.common.files import CURVE, RECORD, write_json, write_text
from datagen.hub.cards import CARD, license_of, model_card, public_record
from datagen.hub.fetch import MODEL_FILES, parse_repo_id
from datagen.hub.publish import Published, PublishTarget, RepoIdentity, publish
from training.config import RunConfig
from training.models import model_folder

STAGING = ".saving"
NOT_PUBLISHED = ("trainer_state.json",)  # of use to --resume alone
PACKAGES = ("r1vlm", "torch", "transformers", "trl", "accelerate", "datasets", "numpy")


class AtomicCheckpoints(Trainer):  # type: ignore[misc]
    """A mixin for transformers' trainers: checkpoints are written in a staging folder and renamed when complete."""

    record: dict[str, Any]
    shown: Callable[[int], str]  # what the model has been shown when it has taken so many steps

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        staging, out = Path(self._get_output_dir(trial)), Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed while it saved
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            step = self.state.global_step
            run = self.record["run_hash"]
            record = {**self.record, "step": step, "checkpoint": f"{run}-{step}", "shown": self.shown(step)}
            write_json(staging / name / RECORD, record)
            write_text(staging / name / CARD, model_card(record))
            shutil.rmtree(out / name, ignore_errors=True)
            os.rename(staging / name, out / name)
            shutil.rmtree(staging)
            best = str(out / f"checkpoint-{self.state.best_global_step}") if self.state.best_global_step else None
            rotate_checkpoints(str(out), self.args.save_total_limit, best_model_checkpoint=best, use_mtime=True)
        self.accelerator.wait_for_everyone()  # what the other processes see next is a checkpoint under its name

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load weights to go on with, under the names that the model has.

        transformers 5.17 looks in the file for the model's own names, finds none of those under which Qwen2.5-VL and
        others are saved, and goes on with the weights that the run began with (transformers #43701, #40187).
        """
        if self.is_fsdp_enabled or is_peft_model(self.model):  # whose files have the names
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL's own card says less than ours, and is not written in one step with the checkpoint."""


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the highest step in a run folder, or None."""
    found = get_last_checkpoint(str(out)) if out.is_dir() else None
    return Path(found) if found else None


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The record of a checkpoint; empty for a model that was not made here."""
    path = checkpoint / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it, or name another model") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is no record of a checkpoint: delete it, or name another model")
    return record


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
    files[RECORD] = json.dumps(record, indent=2, ensure_ascii=False).encode()
    files[CARD] = model_card(record, repo=to.repo, curve=curve.is_file()).encode()
    # With the same weights and record it is the same checkpoint: a card with results, published since, stays.
    return publish(to, files, RepoIdentity(RECORD, "run_hash", record["run_hash"]), no_change=CARD)


def base_model_name(model: str) -> str:
    """What a model is called as the base of others: a published one its name, one of this machine what it came from."""
    return model if parse_repo_id(model) else str(read_record(model_folder(model)).get("base_model", model))


def make_record(run: RunConfig, stage: str) -> dict[str, Any]:
    """What a checkpoint says of its making, beside its step and what the model has been shown."""
    base = base_model_name(run.model)
    what = [stage, base, run.dataset_fingerprint, run.tasks, run.seed, run.settings]
    return {
        "stage": stage,
        "model": run.model,
        "base_model": base,
        "license": license_of(model_folder(run.model)),
        "run_hash": hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16],
        "dataset": run.data,
        "dataset_fingerprint": run.dataset_fingerprint,
        "tasks": run.tasks,
        "reward_hash": run.reward_hash,
        "run": str(Path(run.out).resolve()),
        "seed": run.seed,
        "settings": run.settings,
        "hardware": hardware_name(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def hardware_name() -> str:
    """What this process trains on."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores"


def versions() -> dict[str, str]:
    """The installed versions of what a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit this code was run from, with `+` where files differ from it; None outside a git checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:  # installed inside somebody else's checkout
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")

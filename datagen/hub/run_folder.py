"""The checkpoints in a run folder: those that are whole, and why others are left out."""

from __future__ import annotations

import re
from pathlib import Path

from datagen.common.errors import UserError
from datagen.common.formatting import visible
from datagen.hub.checkpoint import check_weights_files, missing_parts
from datagen.hub.record import read_record

CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,14})")


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def whole_checkpoints(run: Path) -> tuple[list[Path], list[str]]:
    """The whole checkpoints of a run folder in the order of their steps, and a sentence on each that is left out."""
    whole, left_out = [], []
    for path in sorted(run.glob("checkpoint-*")):
        if reason := _fault(path):
            left_out.append(visible(f"{path} is left out: {reason}"))
        else:
            whole.append(path)
    return sorted(whole, key=step_of), left_out


def _fault(path: Path) -> str | None:
    """Why a path is no whole checkpoint of a run; None where it is one."""
    if not CHECKPOINT.fullmatch(path.name):
        return "its name is not checkpoint-STEP"
    if not path.is_dir():
        return "it is no folder"
    if missing := missing_parts(path):
        return f"it has no {' and no '.join(missing)}"
    try:
        check_weights_files(path)
        read_record(path)
    except UserError as error:
        return str(error)
    return None


def last_checkpoint(out: Path) -> Path | None:
    """The whole checkpoint of the highest step in a run folder, or None."""
    checkpoints = whole_checkpoints(out)[0]
    return checkpoints[-1] if checkpoints else None

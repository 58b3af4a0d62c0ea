"""Reading what a checkpoint says of its making: `r1vlm.json`, which training writes beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.common.files import RECORD

RECORD_TYPES = {
    "dataset": str,
    "dataset_fingerprint": str,
    "reward_hash": dict,
    "stage": str,
    "shown": str,
    "run": str,
    "step": int,
    "beside": list,
    "tasks": list,
    "base_model": str,
    "run_hash": str,
    "checkpoint": str,
}


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the checkpoint in `folder`; empty for a model that r1vlm did not make. Every key is optional.

    Raises:
        UserError: where the record is not a JSON object, or a key has another type than in `RECORD_TYPES`.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: delete it, or name another checkpoint") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a checkpoint's record: delete it, or name another checkpoint")
    for key, kind in RECORD_TYPES.items():
        if record.get(key) is not None and not isinstance(record[key], kind):
            raise UserError(f"{key!r} in {path} is not a {kind.__name__}: delete the file, or name another checkpoint")
    return record

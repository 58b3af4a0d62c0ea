"""Reading what a checkpoint says of its making: `r1vlm.json`, which training writes beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from datagen.common.files import RECORD
from datagen.common.untrusted import Digest, Line, Word, check_shape, read_object

ADVICE = "delete it, or name another checkpoint"
# What a card is made from: the record of a checkpoint that r1vlm-train has written has all of it.
CARD_KEYS = {
    *("checkpoint", "run_hash", "stage", "tasks", "step", "shown", "seed"),
    *("settings", "versions", "reward_hash", "dataset_fingerprint"),
}
License = dict[Literal["license", "license_name", "license_link"], Line]
"""A licence in the terms of the Hub."""


class CodeRecord(BaseModel):
    """Which code defines a dataset that is not built in: a file, and the installed package that it is of."""

    file: Line
    sha256: Digest
    package: Line | None = None
    version: Line | None = None


class Record(BaseModel):
    """The record of a checkpoint, as far as it goes. What else is in the file is left out."""

    model_config = ConfigDict(strict=True, extra="ignore")

    stage: Word | None = None
    model: Line | None = None
    base_model: Line | None = None
    license: License | None = None
    run_hash: Word | None = None
    dataset: Line | None = None
    dataset_fingerprint: Word | None = None
    tasks: list[Word] | None = None
    code: CodeRecord | None = None
    reward_hash: dict[Word, Word] | None = None
    run: Line | None = None
    seed: int | None = None
    settings: dict[Word, Any] | None = None
    hardware: Line | None = None
    versions: dict[Word, Word] | None = None
    git_commit: Word | None = None
    traces: Annotated[int, Field(ge=0)] | None = None
    step: Annotated[int, Field(ge=0)] | None = None
    checkpoint: Word | None = None
    shown: Line | None = None
    beside: list[dict[str, Any]] | None = None


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the checkpoint in `folder`: what it says of the keys of `Record`; empty where there is none.

    Raises:
        UserError: where the record is damaged, or a value of it has another type than in `Record`.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    record = check_shape(read_object(path, ADVICE), Record, f"{path} is damaged", ADVICE)
    return record.model_dump(exclude_none=True)

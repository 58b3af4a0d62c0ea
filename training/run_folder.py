"""A run folder: who may train in it, and the record of what is trained there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from datagen.common.errors import UserError
from datagen.common.locks import locked
from datagen.common.untrusted import Word, check_shape, read_object
from training.config import Stage, StageConfig

RUN_FILE = "run.json"  # the configuration, and where the run is
LOGS = "logs"
LOCK = ".lock"
FINAL = "final"
COLD_START = "cold-start"


@contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Be the one process that trains in a run folder, which is made; it is removed where nothing came into it.

    Raises:
        UserError: where another process trains there.
    """
    out.mkdir(parents=True, exist_ok=True)
    refusal = f"another process trains in {out}: wait for its end, or name another folder with --out"
    with locked(out / LOCK, refusal):
        try:
            yield
        finally:
            if [path.name for path in out.iterdir()] == [LOCK]:
                (out / LOCK).unlink()
                out.rmdir()


def check_folder(out: Path, resume: bool) -> None:
    """Raise a `UserError` where `out` holds something that this run would mix with."""
    unbegun = {LOGS, LOCK}  # of a launch that ended before training
    if not out.is_dir() or {path.name for path in out.iterdir()} <= unbegun:
        return
    if not resume:
        raise UserError(f"{out} is not empty: go on with its run with --resume, or name another folder with --out")
    if not any((folder / RUN_FILE).is_file() for folder in (out, out / COLD_START)):
        raise UserError(f"{out} holds no run to go on with: name another folder with --out")


def check_stage(out: Path, stage: Stage) -> None:
    """Raise a `UserError` where the run in `out` is of another stage: a cold start before GRPO would be for nothing."""
    recorded = read_run(out).get("stage", stage)
    if recorded != stage:
        raise UserError(
            f"the run in {out} was started with stage={recorded!r}, not {stage!r}: repeat that, or name another --out"
        )


def record_stage(out: Path, stage: StageConfig) -> bool:
    """Write the configuration of a stage into its folder, or check that it is the one recorded there.

    Returns whether it was written now.

    Raises:
        UserError: where the folder holds a run with another configuration; names the first difference.
    """
    from datagen.common.files import write_json
    from datagen.task import is_current_reward_hash

    path = out / RUN_FILE
    wanted = json.loads(json.dumps(stage.as_json()))
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return True
    recorded = read_run(out)
    nested = ("settings", "hardware")  # a run may go on on other hardware
    before, now = (
        {**{key: value for key, value in run.items() if key not in nested}, **run.get("settings", {})}
        for run in (recorded, wanted)
    )
    if not all(map(is_current_reward_hash, before.get("reward_hash", {}).values())):
        before["reward_hash"] = now["reward_hash"]  # of an older r1vlm, whose hashes can't be compared
    for name in {**before, **now}:
        if before.get(name) != now.get(name) and name != "save_total_limit":  # which changes no step
            raise UserError(
                f"the run in {out} was started with {name}={before.get(name)!r}, not {now.get(name)!r}: repeat that, "
                "or name another --out"
            )
    if recorded.get("hardware") != wanted["hardware"] and not (out / FINAL).exists():
        write_json(path, {**recorded, "hardware": wanted["hardware"]})
    return False


def remove_unbegun(out: Path) -> None:
    """Remove the record of a run that was refused before its first step, so that the same folder can be named again."""
    if {path.name for path in out.iterdir()} <= {RUN_FILE, LOCK}:
        (out / RUN_FILE).unlink()
        if not any(out.iterdir()):  # the folder of a cold start
            out.rmdir()


class Hardware(BaseModel):
    """What `run.json` says of the hardware that is needed to go on."""

    processes: int
    sharding: Word | None
    completions: int | None = None


class RunFile(BaseModel):
    """The shape of `run.json`, so far as it is read."""

    settings: dict[str, Any] = {}
    reward_hash: dict[Word, Word] = {}
    hardware: Hardware | Annotated[dict[str, Any], Field(max_length=0)] = {}


def read_run(out: Path) -> dict[str, Any]:
    """The content of `run.json` in a run folder; empty where there is none.

    Raises:
        UserError: where it is damaged.
    """
    path, advice = out / RUN_FILE, "name another folder with --out, and train anew"
    if not path.is_file():
        return {}
    recorded = read_object(path, advice)
    check_shape(recorded, RunFile, f"{path} is damaged", advice)
    return recorded

"""Which of several training processes this one is, as torchrun and accelerate say it in the environment."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from datagen.common.errors import UserError

LAUNCHED = "R1VLM_LAUNCHED"  # "1" in the environment of the processes that a plan of r1vlm-train starts
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # as a launcher sets them
SUPERVISED = "R1VLM_FOLLOWED"  # "1" where a launcher of r1vlm-train waits for their end, and finishes the run


def check_ranks() -> None:
    """Check that the variables of a launcher, where there are any, can be those of one process of several.

    Raises:
        UserError: where they can't: a shell has kept them from something else.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    advice = f"start it with torchrun or accelerate, or  unset {' '.join(VARIABLES)}"
    for name in given.keys() - {"MASTER_ADDR"}:
        if not given[name].removeprefix("-").isdecimal():
            raise UserError(f"{name}={given[name]!r} in the environment is no number: {advice}")
    rank, size, local = (int(given.get(name, usual)) for name, usual in zip(VARIABLES[:3], (0, 1, -1), strict=True))
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank} in the environment is none of {size} (WORLD_SIZE): {advice}")
    if (size > 1 or local >= 0) and (missing := [name for name in VARIABLES if name not in given]):
        raise UserError(f"the environment has {', '.join(given)}, and no {' and no '.join(missing)}: {advice}")


@contextmanager
def announced_waiting(seconds: float = 5.0) -> Iterator[None]:
    """Inside, several processes meet; where that takes so many seconds, a line on stderr says who is waited for.

    Ctrl-C ends the process, which torch leaves no other way to do while it waits.
    """
    if "RANK" not in os.environ or has_plan():
        yield
        return
    line = (
        f"r1vlm-train: process {os.environ['RANK']} of {world_size()} waits for the others at "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}; where nobody has started them, press Ctrl-C "
        f"and  unset {' '.join(VARIABLES)}"
    )
    timer = threading.Timer(seconds, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def is_main() -> bool:
    """Whether this process writes the run folder: the first of them, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def has_plan() -> bool:
    """Whether a plan of r1vlm-train has started this process."""
    return os.environ.get(LAUNCHED) == "1"


def is_launched() -> bool:
    """Whether this process was started to train with others, by r1vlm-train or by a launcher such as torchrun."""
    return has_plan() or world_size() > 1


def finishes_run() -> bool:
    """Whether this process says that the run is complete, and publishes it; else its launcher does."""
    return is_main() and os.environ.get(SUPERVISED) != "1"


def leave_process_group() -> None:
    """Leave the group, where several processes train together; all but the first end here.

    The threads of gloo must be joined while Python still runs, and a group that the trainer refers to is not ended by
    destroying it. A process that meets them while it exits now and then aborts ("terminate called without an active
    exception"), and the launcher takes a run that is complete for one that failed.
    """
    if world_size() == 1:
        return
    if "vllm" not in sys.modules:  # which ends the group itself
        from torch import distributed

        if distributed.is_initialized():  # not where the run was complete before
            gc.collect()  # the trainer, which is part of cycles
            distributed.destroy_process_group()
    if not is_main():  # it has written nothing that is not on the disk
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

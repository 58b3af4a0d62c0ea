"""Which of several training processes this one is, as torchrun and accelerate say it in the environment."""

from __future__ import annotations

import gc
import os
import sys

LAUNCHED = "R1VLM_LAUNCHED"  # "1" in the environment of the processes that a plan of r1vlm-train starts
SUPERVISED = "R1VLM_FOLLOWED"  # "1" where a launcher of r1vlm-train waits for their end, and finishes the run


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

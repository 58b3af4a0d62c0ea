"""Which of several training processes this one is, as torchrun and accelerate say it in the environment."""

from __future__ import annotations

import os

LAUNCHED = "R1VLM_LAUNCHED"  # in the environment of a trainer that r1vlm-train has started


def is_main() -> bool:
    """Whether this process writes the run folder: the first of them, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_trainer() -> bool:
    """Whether this process was started to train, by r1vlm-train or by a launcher such as torchrun."""
    return os.environ.get(LAUNCHED) == "1" or world_size() > 1

"""The rewards of r1vlm as EasyR1 calls them.

`r1vlm-data export easyr1` copies this file beside the questions it writes. The rewards are those of `r1vlm-train` and
of `r1vlm-eval`, from the r1vlm beside EasyR1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from datagen.export.code import load_code
from datagen.export.judge import judge

load_code(__file__)

REWARD_NAME = "r1vlm"
REWARD_TYPE = "sequential"


def compute_score(reward_input: Mapping[str, Any]) -> dict[str, float]:
    """The sum of the rewards as `overall`, which EasyR1 trains on, and each by its name, which it logs."""
    rewards = judge(json.loads(reward_input["ground_truth"]), reward_input["response"])
    return {**rewards, "overall": sum(rewards.values())}

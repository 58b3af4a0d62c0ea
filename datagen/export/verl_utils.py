"""The rewards of r1vlm as verl calls them.

`r1vlm-data export verl` copies this file beside the questions it writes. The rewards are those of `r1vlm-train` and of
`r1vlm-eval`, from the r1vlm beside verl.
"""

from __future__ import annotations

import json
from typing import Any

from datagen.export.code import load_code
from datagen.export.judge import judge

load_code(__file__)


def compute_score(solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    """The sum of the rewards as `score`, which verl trains on, and each by its name, which it logs."""
    rewards = judge(json.loads(ground_truth), solution_str)
    return {**rewards, "score": sum(rewards.values())}

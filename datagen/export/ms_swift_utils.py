"""The rewards of r1vlm as ms-swift calls them.

`r1vlm-data export ms-swift` copies this file beside the questions it writes. The rewards are those of `r1vlm-train` and
of `r1vlm-eval`, from the r1vlm beside ms-swift.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from datagen.export.code import load_code
from datagen.export.judge import judge
from datagen.r1_format import completion_of

load_code(__file__)


def reward_function(name: str) -> Callable[..., list[float | None]]:
    """A reward in ms-swift's convention, under its name; None for the answers to tasks that do not have it.

    `r1vlm` is the column of the truths. A completion begins with the response prefix, which is the opening words.
    """

    def reward(completions: Sequence[str], r1vlm: Sequence[str], **_: Any) -> list[float | None]:
        answers = zip(r1vlm, completions, strict=True)
        return [judge(json.loads(truth), completion_of(said)).get(name) for truth, said in answers]

    reward.__name__ = name
    return reward

"""The rewards of r1vlm as TRL's GRPOTrainer calls them.

`r1vlm-data export trl` copies this file beside the script it writes. The rewards are those of `r1vlm-train` and of
`r1vlm-eval`, from the r1vlm beside TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datagen.export.code import load_code
from datagen.export.judge import judge

load_code(__file__)


def reward_function(name: str) -> Callable[..., list[float | None]]:
    """A reward in TRL's convention, under its name; None for the answers to tasks that do not have it.

    TRL gives it the columns of the questions' rows as keyword arguments, each a list.
    """

    def reward(completions: Sequence[Sequence[Mapping[str, str]]], **columns: Any) -> list[float | None]:
        lists = {key: column for key, column in columns.items() if isinstance(column, list)}
        rows = [{key: column[i] for key, column in lists.items()} for i in range(len(completions))]
        return [judge(row, said[-1]["content"]).get(name) for row, said in zip(rows, completions, strict=True)]

    reward.__name__ = name
    return reward

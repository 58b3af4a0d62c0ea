"""How an answer is judged that another tool has sampled: called by the files that are copied into exported folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datagen.r1_format import full_message
from datagen.registry import find_task
from datagen.task import score


def judge(question: Mapping[str, Any], completion: str) -> dict[str, float]:
    """Each reward of the question's task, by its name, for what a model generated behind the opening words.

    `question` is a row of `r1`, or what `datagen.export.questions.truth` keeps of it.
    """
    return score(find_task(question["task"]), full_message(completion), question)

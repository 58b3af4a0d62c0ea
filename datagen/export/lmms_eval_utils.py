"""What lmms-eval calls for an exported task: how a question is put, and the rewards of what was answered.

`r1vlm-data export lmms-eval` copies this file beside the tasks it writes. A `doc` is a row of the `r1` config. The
prompt is the row's own; the rewards are those of training and of `r1vlm-eval`, from the r1vlm beside lmms-eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from datagen.export.code import load_code
from datagen.export.judge import judge
from datagen.interaction import question_images
from datagen.r1_format import with_image

load_code(__file__)


def doc_to_messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The system and user messages, for chat models; the images come before the question, as in training."""
    return with_image(doc["prompt"], *({"type": "image", "url": image} for image in question_images(doc)))


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The images, for models that take no messages."""
    return question_images(doc)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The user's message, for models that take no messages. Those have a system message of their own."""
    return str(doc["prompt"][-1]["content"])


class AllAnswers:
    """A filter of lmms-eval that keeps all answers to a question; its default keeps the first alone."""

    def apply(self, resps: Any, docs: Any) -> Any:
        """The answers, unchanged."""
        return resps


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Each reward of the question's task, as the mean over the answers; there are several with `--repeats`."""
    scores = [judge(doc, answer) for answer in results]
    return {name: fmean(one[name] for one in scores) for name in scores[0]}

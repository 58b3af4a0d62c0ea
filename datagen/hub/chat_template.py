"""A checkpoint's chat template, rendered once in a process with limits before it is rendered in ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.r1_format import make_prompt, with_image

SECONDS = 10  # of computing; a thousandth would do
BYTES = 1 << 30
CHARACTERS = 1 << 20
RENDERER = Path(__file__).with_name("template_renderer.py")


def check_template(folder: Path, processor: Any) -> None:
    """Check that the chat template of a checkpoint's processor renders a question.

    Raises:
        UserError: where it raises an error, or takes more time or memory than any template needs.
    """
    conversation = with_image(make_prompt("How many?", "3"), {"type": "image"})
    variables = {"messages": conversation, "add_generation_prompt": True, "tools": None, "documents": None}
    tokens = {name: str(token) for name, token in processor.tokenizer.special_tokens_map.items()}
    limits = [*map(str, (SECONDS, BYTES, CHARACTERS))]
    try:
        ended = subprocess.run(
            [sys.executable, "-P", str(RENDERER), *limits],
            input=json.dumps([processor.chat_template, tokens | variables]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60 + SECONDS,
        )
        reason = "" if ended.returncode == 0 else ended.stderr.strip()[-300:] or "it takes too much time or memory"
    except subprocess.TimeoutExpired:
        reason = "it takes too much time or memory"
    if reason:
        raise UserError(
            f"the chat template of {folder} can't be rendered ({reason}): save the checkpoint's processor with one "
            "that takes a question with an image"
        )


def check_image_counts(texts: Sequence[str], images: Sequence[int], processor: Any) -> None:
    """Check that each prompt of a batch, as the chat template renders it, has one placeholder for each of its images.

    Processors of transformers 5.17 count over the whole batch: one placeholder too many takes the next row's image, and
    one image too few ends in a bare StopIteration, which ends a loop over batches without an error.

    Raises:
        UserError: where one has not.
    """
    placeholder = _placeholder(processor)
    for text, count in zip(texts, images, strict=True):
        if (found := text.count(placeholder)) != count:
            raise UserError(
                f"a prompt has {found} image placeholders ({placeholder}) and {count} image{'s' * (count != 1)}: take "
                "the placeholder out of the question's text, or fix the chat template"
            )


def check_questions(prompts: Iterable[Sequence[Mapping[str, Any]]], processor: Any) -> None:
    """Check that no question has the image placeholder in its text: the chat template writes the only one.

    Raises:
        UserError: where one has.
    """
    placeholder = _placeholder(processor)
    for prompt in prompts:
        if any(placeholder in str(message["content"]) for message in prompt):
            raise UserError(
                f"a question has the image placeholder {placeholder} in its text, where it would stand for a second "
                "image: take it out of the dataset"
            )


def _placeholder(processor: Any) -> str:
    """What stands for an image in a rendered prompt, before the processor expands it."""
    return str(getattr(processor, "boi_token", None) or processor.image_token)  # the first is Gemma 3's

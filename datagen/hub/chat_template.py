"""A checkpoint's chat template, rendered in a process with limits before it is rendered in ours; what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.r1_format import OPENING, make_prompt, with_image

SECONDS = 10  # of computing; a thousandth would do
BYTES = 1 << 30
CHARACTERS = 1 << 20
RENDERER = Path(__file__).with_name("template_renderer.py")
QUESTION = with_image(make_prompt("How many?", "3"), {"type": "image"})
CALL = OPENING + "Look at 5.</think>\n<tool>zoom 5</tool>"
CALLED = [
    *QUESTION,
    {"role": "assistant", "content": [{"type": "text", "text": CALL}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Cell 5."}]},
]
ANSWERED = [*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "Forty-two."}]}]


def check_template(folder: Path, processor: Any) -> None:
    """Check that the chat template of a checkpoint's processor renders a question, and an answer to it.

    Raises:
        UserError: where it raises an error, or takes more time or memory than any template needs.
    """
    tokens = {name: str(token) for name, token in processor.tokenizer.special_tokens_map.items()}
    conversations = [
        {**tokens, "messages": messages, "add_generation_prompt": asked, "tools": None, "documents": None}
        for messages, asked in ((QUESTION, True), (ANSWERED, False))
    ]
    limits = [*map(str, (SECONDS, BYTES, CHARACTERS))]
    try:
        ended = subprocess.run(
            [sys.executable, "-P", str(RENDERER), *limits],
            input=json.dumps([processor.chat_template, *conversations]),
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
            "that takes a question with an image, and an answer"
        )


def check_history(folder: Path, processor: Any) -> None:
    """Check that the chat template gives all that was said, and what came back, to the next turn of a conversation.

    Raises:
        UserError: where it leaves out a turn's reasoning, as templates of models that think do, or a second image.
    """
    text = processor.apply_chat_template(CALLED, tokenize=False, add_generation_prompt=True)
    if CALL not in text or text.count(image_placeholder(processor)) != 2:
        raise UserError(
            f"the chat template of {folder} does not give all of the earlier turns to the next one, which a task of "
            "several turns needs: save the checkpoint's processor with one that keeps reasoning and images"
        )


def end_of_turn(processor: Any) -> str | None:
    """The special token that the chat template writes behind an answer, such as `<|im_end|>`; None where it has none.

    Raises:
        UserError: where it writes one that the tokenizer does not know as such, and which no answer would end with.
    """
    text = processor.apply_chat_template(ANSWERED, tokenize=False)
    _, answer, behind = text.rpartition(ANSWERED[-1]["content"][0]["text"])
    if not answer or not behind.strip():
        return None
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(behind, add_special_tokens=False)["input_ids"]:
        if token in added and added[token].special:
            return str(added[token])
    raise UserError(
        f"the chat template ends an answer with {behind.strip()!r}, which is no special token of the tokenizer (whose "
        f"eos_token is {tokenizer.eos_token!r}), so that no answer would end: add it to the tokenizer as one, or save "
        "a chat template that ends an answer with one"
    )


def stop_token_ids(processor: Any, own: int | Sequence[int] | None = None) -> list[int]:
    """The ids of the tokens that end an answer: `own` (of the generation config), the tokenizer's, the chat template's.

    A checkpoint's files may name different ones. The base models of Qwen, for one, end a text with `<|endoftext|>`,
    while their chat template ends an answer with `<|im_end|>`: a model that is stopped at the first alone goes on.

    Raises:
        UserError: as `end_of_turn`.
    """
    named = [] if own is None else [own] if isinstance(own, int) else list(own)
    ends = [token for token in (processor.tokenizer.eos_token, end_of_turn(processor)) if token]
    return list(dict.fromkeys([*named, *processor.tokenizer.convert_tokens_to_ids(ends)]))


def check_image_counts(texts: Sequence[str], images: Sequence[int], processor: Any) -> None:
    """Check that each prompt of a batch, as the chat template renders it, has one placeholder for each of its images.

    Processors of transformers 5.17 count over the whole batch: one placeholder too many takes the next row's image, and
    one image too few ends in a bare StopIteration, which ends a loop over batches without an error.

    Raises:
        UserError: where one has not.
    """
    placeholder = image_placeholder(processor)
    for text, count in zip(texts, images, strict=True):
        if (found := text.count(placeholder)) != count:
            raise UserError(
                f"a prompt has {found} image placeholders ({placeholder}) and {count} image{'s' * (count != 1)}: take "
                "the placeholder out of the question's text, or fix the chat template"
            )


def check_questions(prompts: Iterable[Sequence[Mapping[str, Any]]], processor: Any, images: int = 1) -> None:
    """Check that no question has the image placeholder in its text, and that the chat template writes one an image.

    `images` are the most that a question shows.

    Raises:
        UserError: where one has, or the chat template does not.
    """
    if images > 1:
        check_several_images(processor, images)
    placeholder = image_placeholder(processor)
    for prompt in prompts:
        if any(placeholder in str(message["content"]) for message in prompt):
            raise UserError(
                f"a question has the image placeholder {placeholder} in its text, where it would stand for a second "
                "image: take it out of the dataset"
            )


def check_several_images(processor: Any, images: int) -> None:
    """Check that the chat template writes a placeholder for each of so many images of a question.

    Raises:
        UserError: where it does not.
    """
    question = with_image(make_prompt("How many?", "3"), *[{"type": "image"}] * images)
    text = processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    check_image_counts([text], [images], processor)


def image_placeholder(processor: Any) -> str:
    """What stands for an image in a rendered prompt, before the processor expands it."""
    return str(getattr(processor, "boi_token", None) or processor.image_token)  # the first is Gemma 3's

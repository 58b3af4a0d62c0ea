"""How a built-in model is asked for long messages, and answers: plainly, going on, or among phrases it never saw."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration as Model
from transformers import Qwen2_5_VLProcessor as Processor

from datagen.r1_format import spell_out
from training.builtin_models.architecture import phrases
from training.builtin_models.language import AROUND, DECODE

GOING_ON = 0.75  # the share of batches whose requests do not end with the message, in the later rounds
SHORT = 4  # characters of the longest phrases that answers have: "a = "
ROLES = ("user\n", "assistant\n")  # which every chat has
PHRASES = [one for one in phrases() if len(one) > SHORT and one not in ROLES]
BEHIND = string.ascii_letters + string.digits + string.punctuation + " "


@dataclass(frozen=True)
class Wording:
    """What stands before and behind a message in a request, and around the parts of its answer."""

    before: str = f"{DECODE} "
    behind: str = "."
    around: tuple[str, str, str, str] = AROUND

    def request(self, example: Mapping[str, str]) -> str:
        """The request to decode a message."""
        return f"{self.before}{spell_out(example['coded_message'])}{self.behind}"


Word = Callable[[np.random.Generator], Wording]
"""Draws the wording of a batch."""


def plain(_: np.random.Generator) -> Wording:
    """As `small-ciphers` was asked, and answered."""
    return Wording()


def going_on(rng: np.random.Generator) -> Wording:
    """Most often with a mark behind the message, and up to 24 random characters that are no part of it."""
    if rng.random() >= GOING_ON:
        return Wording()
    return Wording(behind=str(rng.choice(list(".?!:;\n"))) + "".join(rng.choice(list(BEHIND), size=rng.integers(25))))


def in_phrases(rng: np.random.Generator) -> Wording:
    """As often with random phrases in each place."""
    wording = going_on(rng)
    if rng.random() < 0.5:
        wording = replace(wording, before="".join(rng.choice(PHRASES, size=rng.integers(1, 5))))
    if rng.random() < 0.5:
        wording = replace(wording, behind="\n" + "".join(rng.choice(PHRASES, size=rng.integers(1, 7))))
    if rng.random() < 0.5:
        first, last = (str(rng.choice(PHRASES)) if rng.random() < 0.5 else "" for _ in range(2))
        wording = replace(wording, around=(first, str(rng.choice(PHRASES)), str(rng.choice(PHRASES)), last))
    return wording


@torch.no_grad()
def begin_phrases(model: Model, processor: Processor) -> None:
    """Let the embedding of each phrase that was never shown be the mean of those of its parts, shorter phrases first.

    While a token is never shown, its embedding is pushed away from whatever is to be said.
    """
    tokens = processor.tokenizer.convert_tokens_to_ids
    known = {one for one in [*phrases(), *string.printable] if one not in PHRASES}
    table = model.get_input_embeddings().weight  # which is the output's too
    for one in sorted(PHRASES, key=len):
        part = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))))
        table[tokens(one)] = table[tokens(part.findall(one))].mean(0)
        known.add(one)

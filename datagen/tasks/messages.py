"""A secret message of one to three words: read it with the decoder in the image, and show the decoded characters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.options import Option, integer_choice, integer_range
from datagen.rendering.cipher_table import OPTIONS
from datagen.sources.vocabulary import ALPHABETS, Vocabulary
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task
from datagen.tasks.words import CIPHER, LETTERS, READS, VOCABULARY, encipher, lookup_trace, swap_letters

if TYPE_CHECKING:
    import numpy as np

PLAIN = re.compile(r"[a-z ]+")


def draw(rng: np.random.Generator, words: Vocabulary, options: Mapping[str, Any]) -> DrawnExample:
    """One to three different words under a random substitution of the alphabet; the image shows the decoder."""
    low, high = options["words"]
    size = options["alphabet"]
    count = int(rng.integers(low, high, endpoint=True))
    chosen = words.pick(rng, count, most=options["vocabulary"], letters=options["letters"], alphabet=size)
    more = {
        "words": chosen,
        "num_words": count,
        "word_length": max(map(len, chosen)),
        "alphabet_size": size,
    }
    return encipher(rng, words, " ".join(chosen), size, options=options, more=more)


def extract_characters(message: str) -> list[str] | None:
    """The characters in the only `<chars>` block of a well-formed message; None where there is no such block."""
    parsed = r1_format.parse(message)
    if parsed is None or message.count("<chars>") != 1 or message.count("</chars>") != 1:
        return None
    _, _, rest = parsed[0].partition("<chars>")
    characters, closed, _ = rest.partition("</chars>")
    return characters.split() if closed else None


def edit_distance(given: str | list[str], true: str | list[str]) -> int:
    """The Levenshtein distance of two texts, or of two lists of characters."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(given, true)


def similarity(given: str | list[str], true: str | list[str]) -> float:
    """1 - edit distance / the longer length; 1.0 where both are empty."""
    return 1.0 - edit_distance(given, true) / max(len(given), len(true), 1)


def chars_format(message: str, example: GroundTruth) -> float:
    """1.0 for one think block that holds one chars block, then one answer block that is not empty."""
    return float(extract_characters(message) is not None and r1_format.format_reward(message, example) == 1.0)


def chars(message: str, example: GroundTruth) -> float:
    """1 - edit distance / the longer length, of the characters shown and the message's.

    0.0 where they are nearer to the coded text.
    """
    given = extract_characters(message)
    if not given:
        return 0.0
    true, coded = (r1_format.spell_out(example[column]).split(" ") for column in ("message", "coded_message"))
    if edit_distance(given, coded) < edit_distance(given, true):
        return 0.0
    return similarity(given, true)


def message_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is exactly the message, and the characters shown are all right."""
    return float(r1_format.extract_answer(message) == example["message"] and chars(message, example) == 1.0)


def partial(message: str, example: GroundTruth) -> float:
    """1 - edit distance / the longer length, of answer and message, where the characters shown are all right.

    0.0 for anything but lower-case letters and spaces, and for an answer that is no nearer to the message than the
    message spelled out is: copying the characters is no answer.
    """
    answer = r1_format.extract_answer(message)
    if answer is None or PLAIN.fullmatch(answer) is None or chars(message, example) < 1.0:
        return 0.0
    true = example["message"]
    if edit_distance(answer, true) >= edit_distance(r1_format.spell_out(true), true):
        return 0.0
    return similarity(answer, true)


def message_task(count: int) -> Task:
    """The task that asks for messages of `count` words."""
    return Task(
        name=f"word_{count}",
        summary=f"Decode a message of {count} word{'s' * (count > 1)}, showing the characters.",
        ask=lambda example: (
            "Each entry of the image shows a coded letter, an arrow, and the letter it stands for; _ stands for a "
            f"space. Decode this message: {r1_format.spell_out(example['coded_message'])}\n"
            "At the end of your reasoning write all decoded characters with spaces between them, _ for a space, in "
            "<chars> </chars> tags."
        ),
        example_answer="the whole decoded message",
        answer=lambda example: str(example["message"]),
        solve=lambda example: f"{lookup_trace(example)}. <chars> {r1_format.spell_out(example['message'])} </chars>",
        rewards={"format": chars_format, "chars": chars, "correctness": message_correct, "partial": partial},
        applies_to=lambda example: bool(example["num_words"] == count),
    )


MESSAGES = DatasetSpec(
    name="messages",
    version="1",
    summary="one to three words in a cipher whose decoder is drawn in the image, decoded character by character",
    draw=draw,
    sources=("wordfreq",),
    options=(
        Option("words", (1, 3), integer_range(1, 3), "LOW..HIGH", "Words in a message."),
        Option("alphabet", 26, integer_choice(*ALPHABETS), "8|13|26", "Letters in the cipher."),
        VOCABULARY,
        replace(LETTERS, default=(3, 10)),
        *OPTIONS,
    ),
    raw_columns={
        **CIPHER,
        "words": Column(["string"], "the words of the message"),
        "num_words": Column("int64", "how many there are"),
        "word_length": Column("int64", "letters in the longest word: the difficulty"),
        "alphabet_size": Column("int64", "letters in the cipher: 8, 13 or 26"),
    },
    r1_columns=("message", "coded_message", "key", "num_words", "word_length", "alphabet_size"),
    difficulty="word_length",
    disjoint=("words", "key"),
    tasks=(message_task(1), message_task(2), message_task(3)),
    counterfactual=swap_letters,
    reads=READS,
)

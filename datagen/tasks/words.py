"""A secret word: read it with the decoder that the image shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datagen.common.options import Option, integer, integer_range
from datagen.r1_format import extract_answer, format_reward, spell_out
from datagen.rendering.cipher_table import OPTIONS, draw_cipher_table
from datagen.sources.vocabulary import ALPHABETS, MAX_RANK, Vocabulary
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task

if TYPE_CHECKING:
    import numpy as np

QUOTES = "\"'`“”‘’«»"
VOCABULARY = Option("vocabulary", 20_000, integer(1, MAX_RANK), "N", "Draw from the N most frequent English words.")
LETTERS = Option("letters", (3, 12), integer_range(3, 20), "LOW..HIGH", "Letters in a word.")
ALPHABET = 26
READS = re.compile(r"(?<= = )[a-z]")  # what a coded letter stands for


def draw(rng: np.random.Generator, words: Vocabulary, options: Mapping[str, Any]) -> DrawnExample:
    """One word under a random substitution of the 26 letters; the image shows the decoder."""
    (word,) = words.pick(rng, 1, most=options["vocabulary"], letters=options["letters"], alphabet=ALPHABET)
    return encipher(rng, words, word, ALPHABET, options=options, more={"word_length": len(word)})


def encipher(
    rng: np.random.Generator,
    words: Vocabulary,
    message: str,
    alphabet: int,
    *,
    options: Mapping[str, Any],
    more: Mapping[str, Any],
) -> DrawnExample:
    """The decoder of a random key of the split, with the message in that cipher (and `more`) as truth."""
    cipher = encode(rng, words, message, alphabet)
    image, boxes = draw_cipher_table(rng, ALPHABETS[alphabet], cipher["key"], options)
    regions = {letter: [box] for letter, box in zip(cipher["key"], boxes, strict=True)}
    return DrawnExample(image, {**cipher, **more}, regions)


def encode(rng: np.random.Generator, words: Vocabulary, message: str, alphabet: int) -> dict[str, str]:
    """A message in the cipher of a random key of the split: the columns of `CIPHER`.

    The coded message differs from the message; a space is coded as `_`. The key's i-th letter is what the alphabet's
    i-th letter stands for.
    """
    while True:
        key = words.key(rng, alphabet)
        coded = message.translate(str.maketrans(key + " ", ALPHABETS[alphabet] + "_"))
        if coded != message.replace(" ", "_"):
            return {"message": message, "coded_message": coded, "key": key}


def swap_letters(rng: np.random.Generator, example: GroundTruth, options: Mapping[str, Any]) -> DrawnExample:
    """The same coded message, with two letters exchanged in the decoder's right column, one of them in the message."""
    message, key = swapped_key(rng, example)
    image, _ = draw_cipher_table(rng, ALPHABETS[len(key)], key, options)
    return DrawnExample(image, {"message": message, "key": key})


def swapped_key(rng: np.random.Generator, example: GroundTruth) -> tuple[str, str]:
    """The message and the key, with two letters of the key exchanged, one of which is in the message."""
    key = example["key"]
    first = str(rng.choice(sorted(set(example["message"]) - {" "})))
    second = str(rng.choice([letter for letter in key if letter != first]))
    swap = str.maketrans(first + second, second + first)
    return example["message"].translate(swap), key.translate(swap)


def lookup(example: GroundTruth) -> list[tuple[str, str]]:
    """Every coded character of the message with what it stands for."""
    return list(zip(example["coded_message"], example["message"].replace(" ", "_"), strict=True))


def lookup_trace(example: GroundTruth) -> str:
    """The trace's first step: every coded character with what it stands for."""
    return ", ".join(f"{coded} = {letter}" for coded, letter in lookup(example))


def word_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the word; case and quotes around it are ignored."""
    answer = extract_answer(message)
    if answer is None or len(answer) > 100:
        return 0.0
    word = answer.strip(QUOTES).strip()
    return float(word.isascii() and word.lower() == example["message"])


WORD = Task(
    name="word",
    summary="Decode a word.",
    ask=lambda example: (
        "Each entry of the image shows a coded letter, an arrow, and the letter it stands for. "
        f"Decode this word: {spell_out(example['coded_message'])}"
    ),
    example_answer="the decoded word",
    answer=lambda example: str(example["message"]),
    solve=lambda example: f"{lookup_trace(example)}.",
    rewards={"format": format_reward, "correctness": word_correct},
)

CIPHER = {
    "message": Column("string", "the plain text, in lower case"),
    "coded_message": Column("string", "the same in the cipher; `_` stands for a space"),
    "key": Column("string", "what the letters of the alphabet stand for, in its order"),
}

WORDS = DatasetSpec(
    name="words",
    version="1",
    summary="a common English word in a cipher whose decoder is drawn in the image",
    draw=draw,
    sources=("wordfreq",),
    options=(VOCABULARY, LETTERS, *OPTIONS),
    raw_columns={**CIPHER, "word_length": Column("int64", "letters in the word: the difficulty")},
    r1_columns=("message", "coded_message", "key", "word_length"),
    difficulty="word_length",
    disjoint=("message", "key"),
    tasks=(WORD,),
    counterfactual=swap_letters,
    reads=READS,
)

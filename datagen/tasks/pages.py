"""A secret word whose decoder is spread over pages: find out from an index which to look at, then decode the word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datagen.common.options import Option, integer_choice
from datagen.interaction import (
    Episode,
    Interaction,
    Observation,
    decode_image,
    episode_format,
    format_call,
    judge_last,
    use_tool,
)
from datagen.r1_format import spell_out
from datagen.rendering.cipher_table import OPTIONS, draw_cipher_table, draw_cipher_tables
from datagen.sources.vocabulary import ALPHABETS, Vocabulary
from datagen.task import Column, DatasetSpec, DrawnExample, GroundTruth, Task
from datagen.tasks.words import CIPHER, LETTERS, VOCABULARY, encode, lookup, lookup_trace, swapped_key, word_correct

if TYPE_CHECKING:
    import numpy as np

PAGES = "wxyz"  # which only the largest alphabet has: what a letter stands for is hardly taken for a page
PAGE = re.compile(rf"page ([{PAGES}])", re.ASCII)
USAGE = "To look at a page, say <tool>page N</tool> in place of an answer."


def draw(rng: np.random.Generator, words: Vocabulary, options: Mapping[str, Any]) -> DrawnExample:
    """A word in a cipher; the image shows which page each letter is on, and `book` the pages below one another."""
    size = options["alphabet"]
    (word,) = words.pick(rng, 1, most=options["vocabulary"], letters=options["letters"], alphabet=size)
    cipher = encode(rng, words, word, size)
    index = "".join(PAGES[at % len(PAGES)] for at in rng.permutation(size).tolist())
    image, _ = draw_cipher_table(rng, ALPHABETS[size], index, options)
    return DrawnExample(
        image=image,
        truth={
            **cipher,
            "book": draw_cipher_tables(rng, tables(cipher["key"], index), options),
            "index": index,
            "num_pages": len(needed(cipher["coded_message"], index)),
        },
    )


def tables(key: str, index: str) -> list[tuple[str, str]]:
    """The coded letters on each page, and what they stand for."""
    alphabet = ALPHABETS[len(key)]
    on = [[at for at, place in enumerate(index) if place == page] for page in PAGES]
    return [("".join(alphabet[at] for at in page), "".join(key[at] for at in page)) for page in on]


def needed(coded: str, index: str) -> list[str]:
    """The pages that a coded word needs, in the order in which its letters do."""
    places = dict(zip(ALPHABETS[len(index)], index, strict=True))
    return list(dict.fromkeys(places[letter] for letter in coded))


def turn_page(call: str, row: Mapping[str, Any]) -> Observation:
    """The page N of `page N`; a refusal for anything else."""
    found = PAGE.fullmatch(call)
    if found is None:
        return Observation(f"No such call: page {PAGES[0]} to page {PAGES[-1]}.", ok=False)
    book = decode_image(row["book"])
    height = book.height // len(PAGES)
    top = PAGES.index(found[1]) * height
    return Observation(image=book.crop((0, top, book.width, top + height)))


def economy(episode: Episode, example: GroundTruth) -> float:
    """Pages that were needed by calls that were made; 0.0 unless the word is right and all of them were looked at.

    A call earns nothing by itself.
    """
    seen = {found[1] for call, shown in episode.calls if shown.ok and (found := PAGE.fullmatch(call))}
    pages = needed(example["coded_message"], example["index"])
    if not word_correct(episode.final, example) or not set(pages) <= seen:
        return 0.0
    return len(pages) / len(episode.calls)


def look(example: GroundTruth) -> Sequence[str]:
    """The calls of the trace: each page that is needed, once."""
    pages = needed(example["coded_message"], example["index"])
    return [format_call(known(example, pages[:seen]), f"page {page}") for seen, page in enumerate(pages)]


def known(example: GroundTruth, seen: Sequence[str]) -> str:
    """The reasoning of the trace after some pages: each letter's plain one, or the page that it is still on.

    The page to look at next is the first one in it. All of it is one way to look letters up, with the pages before the
    index: a small model confuses two.
    """
    places = dict(zip(ALPHABETS[len(example["index"])], example["index"], strict=True))
    found = {coded: plain if places[coded] in seen else places[coded] for coded, plain in lookup(example)}
    return f"{', '.join(f'{letter} = {found[letter]}' for letter in example['coded_message'])}."


def exchange(rng: np.random.Generator, row: GroundTruth, options: Mapping[str, Any]) -> DrawnExample:
    """The row with what two letters stand for exchanged in the book, one of them in the message; the index stays."""
    message, key = swapped_key(rng, row)
    book = draw_cipher_tables(rng, tables(key, row["index"]), options)
    return DrawnExample(decode_image(row["image"]), {"book": book, "message": message, "key": key})


WORD = Task(
    name="paged_word",
    summary="Decode a word. (after a look at the pages that its letters are on)",
    ask=lambda example: (
        "Each entry of the image shows a coded letter, an arrow, and the page that says what the letter stands for. "
        f"Decode this word: {spell_out(example['coded_message'])}"
    ),
    example_answer="the decoded word",
    answer=lambda example: str(example["message"]),
    solve=lambda example: f"{lookup_trace(example)}.",
    rewards={"format": episode_format, "correctness": judge_last(word_correct), "economy": economy},
    interaction=Interaction(use_tool(turn_page), len(PAGES) + 2, look, USAGE),  # one call to spare
)

PAGES_DATASET = DatasetSpec(
    name="pages",
    version="2",
    summary="a word in a cipher whose decoder is spread over four pages: find the pages in an index, then decode",
    draw=draw,
    sources=("wordfreq",),
    options=(
        Option("alphabet", 8, integer_choice(*ALPHABETS), "8|13|26", "Letters in the cipher."),
        VOCABULARY,
        replace(LETTERS, default=(3, 5)),
        *OPTIONS,
    ),
    raw_columns={
        **CIPHER,
        "book": Column("image", "the four pages below one another, which only the tool shows"),
        "index": Column("string", "the page of each letter of the alphabet, in its order"),
        "num_pages": Column("int64", "how many pages the word needs: the difficulty"),
    },
    r1_columns=("message", "coded_message", "key", "book", "index", "num_pages"),
    difficulty="num_pages",
    disjoint=("message", "key"),
    tasks=(WORD,),
    counterfactual=exchange,
    notes="""\
A message calls the tool with `<tool>page x</tool>`, and gets the image of page x, a quarter of `book`. `turns` are the
messages of the trace before `solution`. The rewards judge the whole episode, and none pays for a call.""",
)

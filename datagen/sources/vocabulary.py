"""Real words: common English by frequency rank, from wordfreq (Speer 2022, https://zenodo.org/records/7199437).

ASCII letters only, three or more, without slurs and obscenities (`blocked.txt`: a stem to a line; `=word` for one
word alone).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

from datagen.common.errors import UserError
from datagen.sources.split import SPLITS, assign_split, content_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_RANK = 50_000  # by rank; rarer "words" are names and misspellings
# The commonest letters first: a smaller alphabet still has words.
ALPHABETS = {8: "aeinorst", 13: "acdehilnorstu", 26: "abcdefghijklmnopqrstuvwxyz"}


@dataclass(frozen=True, eq=False)  # compared and hashed as an object: a key of the cache below
class Vocabulary:
    """Words by falling frequency, with their ranks from 1 among all of wordfreq's English, and their split."""

    ranked: tuple[tuple[int, str], ...]
    split: str = "all"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all words and ranks."""
        return hashlib.sha256(repr(self.ranked).encode()).hexdigest()

    @cached_property
    def _parts(self) -> dict[str, Vocabulary]:
        parts: dict[str, list[tuple[int, str]]] = {split: [] for split in SPLITS}
        for rank, word in self.ranked:
            parts[assign_split(content_hash(word.encode()))].append((rank, word))
        return {split: Vocabulary(tuple(part), split) for split, part in parts.items()}

    def of_split(self, split: str) -> Vocabulary:
        """The words of one split; it also gives the cipher keys of that split."""
        return self._parts[split]

    def pick(
        self, rng: np.random.Generator, count: int, *, most: int, letters: tuple[int, int], alphabet: int
    ) -> list[str]:
        """`count` different words among the `most` most frequent, of `letters` (least, most) letters of the alphabet.

        Raises:
            UserError: where the split has too few such words.
        """
        known = _matching_words(self, most, (letters[0], letters[1]), alphabet)
        if len(known) < count:
            raise UserError(
                f"{self.split} has {len(known)} words of {letters[0]} to {letters[1]} letters from an alphabet of "
                f"{alphabet} among the {most} most frequent: raise --vocabulary, or widen --letters"
            )
        return [known[i] for i in rng.choice(len(known), size=count, replace=False).tolist()]

    def key(self, rng: np.random.Generator, alphabet: int) -> str:
        """A random key of this split: its i-th letter is what the alphabet's i-th letter stands for."""
        letters = _letters(alphabet)
        while True:
            key = "".join(rng.permutation(letters).tolist())
            if assign_split(content_hash(key.encode())) == self.split:
                return key


@cache
def _letters(alphabet: int) -> NDArray[np.str_]:
    import numpy as np

    return np.array(list(ALPHABETS[alphabet]))


@cache  # a worker asks for few combinations, millions of times
def _matching_words(words: Vocabulary, most: int, letters: tuple[int, int], alphabet: int) -> list[str]:
    low, high = letters
    known = set(ALPHABETS[alphabet])
    return [word for rank, word in words.ranked if rank <= most and low <= len(word) <= high and set(word) <= known]


def blocked() -> tuple[set[str], tuple[str, ...]]:
    """`(words, stems)`: a word is blocked where it is one of the words, or holds one of the stems."""
    lines = files("datagen.sources").joinpath("blocked.txt").read_text(encoding="utf-8").split()
    return {line[1:] for line in lines if line[0] == "="}, tuple(line for line in lines if line[0] != "=")


@cache
def load_vocabulary() -> Vocabulary:
    """All words of the source `wordfreq`."""
    from wordfreq import top_n_list

    words, stems = blocked()
    of_a_stem = re.compile("|".join(map(re.escape, stems))).search
    return Vocabulary(
        tuple(
            (rank, word)
            for rank, word in enumerate(top_n_list("en", MAX_RANK), start=1)
            if len(word) >= 3 and word.isascii() and word.isalpha() and word not in words and not of_a_stem(word)
        )
    )

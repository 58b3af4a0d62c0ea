"""Where every random number of a dataset comes from."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def example_rng(dataset: str, version: str, seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one example.

    The key of the counter-based generator (Philox, Salmon et al. 2011) is half a SHA-256 of its whole address, so
    neighbouring seeds and indices share nothing, and an example can be drawn by itself, in any order, by any number of
    workers.
    """
    address = "\0".join((dataset, version, str(seed), split, str(index)))
    key = np.frombuffer(hashlib.sha256(address.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(_Key(key)))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """A key as it is. Philox(key=key) is the same stream, and takes twice as long: it asks the system for noise too."""

    def __init__(self, key: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return self.key

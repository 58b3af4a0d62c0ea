"""Where every random number of a dataset comes from."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(dataset: str, version: str, seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one example.

    The key of the counter-based generator (Philox, Salmon et al. 2011) is half a SHA-256 of its whole address, so
    neighbouring seeds and indices share nothing, and an example can be drawn by itself, in any order, by any number of
    workers.
    """
    address = "\0".join((dataset, version, str(seed), split, str(index)))
    key = np.frombuffer(hashlib.sha256(address.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))

"""Where every random number of a dataset comes from."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(dataset: str, version: str, seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one example.

    The seed of the stream is a SHA-256 of its whole address, so neighbouring seeds and indices share nothing,
    and an example can be drawn by itself, in any order, by any number of workers.
    """
    address = "\0".join((dataset, version, str(seed), split, str(index)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(address.encode()).digest(), "big")))

"""Which split each row belongs to: no image, no near-duplicate and no group is in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from datagen.common.errors import UserError
from datagen.sources.split import SPLITS

LEFT_OUT = -1


@dataclass(frozen=True)
class Rows:
    """What is known of the usable rows of a table, in order: 25 bytes a row, and 32 an image.

    `groups` are 16 bytes that stand for the group, `given` the number of the split, or -1. Of each image `row` is the
    place of its row here, `pixels` 16 bytes that stand for it, and `near` the perceptual hash.
    """

    numbers: NDArray[np.int64]
    groups: NDArray[np.bytes_]
    given: NDArray[np.int8]
    row: NDArray[np.int64]
    pixels: NDArray[np.bytes_]
    near: NDArray[np.uint64]


@dataclass(frozen=True)
class Decision:
    """The split of each row (-1: left out), and the number of the first row that shared images connect it with.

    `duplicates` are the images that were shown before, `near_duplicates` those that are nearly another, and `across`
    the rows left out since one that they belong together with is in another split. `example` are two such rows.
    """

    splits: NDArray[np.int8]
    firsts: NDArray[np.int64]
    duplicates: int
    near_duplicates: int
    across: int
    example: tuple[int, int] | None


def decide(rows: Rows, shares: tuple[int, int, int], near: int, *, several: bool = False) -> Decision:
    """Assign splits. Rows that are connected through an image, near-duplicates, or a group stay together.

    Where splits are given, rows that belong together are left out of all but the last of their splits; a split that
    no row is given is taken from train. `several` says that rows may show several images.
    """
    shown, image = np.unique(rows.pixels, return_inverse=True)
    _, group = np.unique(rows.groups, return_inverse=True)
    hashes, alike = np.unique(rows.near, return_inverse=True)
    first, second = near_pairs(hashes, near)
    count, at = len(rows.numbers), np.arange(len(rows.numbers))
    # A graph of rows and of what they share; rows are its first nodes, then groups, images and hashes.
    images = 2 * count
    edges = [(at, count + group), (rows.row, images + image)]
    if near >= 0:
        hashed = images + len(shown)
        edges += [(rows.row, hashed + alike), (hashed + first, hashed + second)]
    part = _parts(edges, count)

    position = _positions(rows, part, several=several)
    splits, across, example = _assign(rows, part, position, shares)
    sizes = np.bincount(alike, minlength=len(hashes))
    seen_near = np.zeros(len(hashes), dtype=bool)
    seen_near[first] = seen_near[second] = True
    distinct = np.unique(np.stack([alike, image]), axis=1)[0] if len(image) else alike
    seen_near |= np.bincount(distinct, minlength=len(hashes)) > 1
    return Decision(
        splits,
        _firsts(rows, image, splits),
        duplicates=len(image) - len(shown),
        near_duplicates=int(sizes[seen_near].sum()) if near >= 0 else 0,
        across=across,
        example=example,
    )


Edges = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Pairs of nodes that are connected, as two arrays each."""


def _parts(edges: Edges, count: int) -> NDArray[np.int64]:
    """The part of the graph that each of its first `count` nodes is in, as a number from 0 on."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts, ends = (np.concatenate(side) for side in zip(*edges, strict=True))
    size = int(max(1, count, *(side.max(initial=-1) + 1 for side in (starts, ends))))
    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(size, size))
    part: NDArray[np.int64] = np.unique(connected_components(graph, directed=False)[1][:count], return_inverse=True)[1]
    return part


def _firsts(rows: Rows, image: NDArray[np.int64], splits: NDArray[np.int8]) -> NDArray[np.int64]:
    """The number of the first row that images connect each row with, among those that have a split."""
    count = len(rows.numbers)
    kept = np.flatnonzero(splits >= 0)
    shown = splits[rows.row] >= 0
    part = _parts([(rows.row[shown], count + image[shown])], count)
    _, first, inverse = np.unique(part[kept], return_index=True, return_inverse=True)
    firsts = np.zeros(count, dtype=np.int64)
    firsts[kept] = rows.numbers[kept[first[inverse]]]
    return firsts


def near_pairs(hashes: NDArray[np.uint64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of distinct hashes that differ in at most `most` bits, as indices, the smaller one first.

    Cut into `most` + 1 pieces, two such hashes have one piece in common: only those that have are compared.
    """
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    cuts = np.linspace(0, 64, most + 2).astype(np.uint64) if most > 0 else ()
    for low, high in pairwise(cuts):
        pieces = hashes << (np.uint64(64) - high) >> (np.uint64(64) - high + low)
        order = np.argsort(pieces)
        pieces, ordered = pieces[order], hashes[order]
        at, step = np.arange(len(hashes)), 0
        while len(at):  # those whose piece is also that of the hash so many steps behind
            step += 1
            at = at[at + step < len(hashes)]
            at = at[pieces[at] == pieces[at + step]]
            near = at[np.bitwise_count(ordered[at] ^ ordered[at + step]) <= most]
            pairs.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
    first, second = np.unique(np.concatenate(pairs), axis=0).T
    return first, second


def _positions(rows: Rows, part: NDArray[np.int64], *, several: bool) -> NDArray[np.float64]:
    """Where in [0, 1) each part is, by the smallest hash of its groups: rows that are added move no others.

    The smallest hash of a large part is near 0, and images connect rows to large parts: theirs is hashed once more.
    """
    order = np.lexsort((rows.groups, part))
    heads = order[np.unique(part[order], return_index=True)[1]]
    smallest = [key.ljust(16, b"\0") for key in rows.groups[heads].tolist()]
    keys = [sha256(key).digest() for key in smallest] if several else smallest
    return np.array([int.from_bytes(key[:7]) / 2**56 for key in keys])


def _assign(
    rows: Rows, part: NDArray[np.int64], position: NDArray[np.float64], shares: tuple[int, int, int]
) -> tuple[NDArray[np.int8], int, tuple[int, int] | None]:
    bounds = np.cumsum(shares) / 100
    drawn = np.searchsorted(bounds, position, side="right").clip(max=2).astype(np.int8)
    if (rows.given < 0).all():
        return drawn[part], 0, None
    last = np.full(len(position), -1, dtype=np.int8)
    np.maximum.at(last, part, rows.given)
    splits = np.where(rows.given == last[part], rows.given, np.int8(LEFT_OUT))
    across = np.flatnonzero(splits == LEFT_OUT)
    example = None
    if len(across):
        kept = np.flatnonzero((part == part[across[0]]) & (splits != LEFT_OUT))[0]
        example = int(rows.numbers[across[0]]), int(rows.numbers[kept])
    present = set(np.unique(rows.given).tolist())
    for missing in {1, 2} - present:  # as many of train as the split would have of all
        taken = (splits == 0) & (drawn[part] == missing)
        splits[taken] = missing
    return splits, len(across), example


def check_counts(splits: NDArray[np.int8], near: int) -> dict[str, int]:
    """The rows of each split.

    Raises:
        UserError: where one has none.
    """
    counts: dict[str, int] = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    for name, count in counts.items():
        if not count:
            less = " or --near -1, which lets near-duplicates be apart" if near >= 0 else ""
            raise UserError(
                f"no image falls into {name} ({', '.join(f'{n} {s}' for s, n in counts.items())}): images that are "
                f"alike or of one group stay together; add images, or take other --splits{less}"
            )
    return counts

"""Which split each row belongs to: no image, no near-duplicate and no group is in two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datagen.common.errors import UserError
from datagen.sources.split import SPLITS

BLOCK = 1 << 22  # pairs of hashes that are compared at a time
LEFT_OUT = -1


@dataclass(frozen=True)
class Rows:
    """What is known of the usable rows of a table, in order: 45 bytes a row.

    `pixels` and `groups` are 16 bytes that stand for the image and the group, `near` the perceptual hash, `given` the
    number of the split, or -1.
    """

    numbers: NDArray[np.int64]
    pixels: NDArray[np.bytes_]
    groups: NDArray[np.bytes_]
    near: NDArray[np.uint64]
    given: NDArray[np.int8]


@dataclass(frozen=True)
class Decision:
    """The split of each row (-1: left out), and how many have a duplicate, a near-duplicate, and one in another split.

    `example` are two rows of the table that are alike and whose given splits differ.
    """

    splits: NDArray[np.int8]
    duplicates: int
    near_duplicates: int
    across: int
    example: tuple[int, int] | None


def decide(rows: Rows, shares: tuple[int, int, int], near: int) -> Decision:
    """Assign splits. Rows that show one image, near-duplicates, or one group stay together.

    Where splits are given, rows that belong together are left out of all but the last of their splits; a split that
    no row is given is taken from train.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    shown, image = np.unique(rows.pixels, return_inverse=True)
    _, group = np.unique(rows.groups, return_inverse=True)
    hashes, alike = np.unique(rows.near, return_inverse=True)
    first, second = near_pairs(hashes, near)
    count, at = len(rows.numbers), np.arange(len(rows.numbers))
    # A graph of rows and of what they share; rows are its first nodes.
    edges = [(at, count + image), (at, count + count + group)]
    if near >= 0:
        edges += [(at, 3 * count + alike), (3 * count + first, 3 * count + second)]
    starts, ends = (np.concatenate(side) for side in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(starts), dtype=np.int8), (starts, ends)), shape=(4 * count, 4 * count))
    _, part = np.unique(connected_components(graph, directed=False)[1][:count], return_inverse=True)

    position = _positions(rows, part)
    splits, across, example = _assign(rows, part, position, shares)
    sizes = np.bincount(alike, minlength=len(hashes))
    seen_near = np.zeros(len(hashes), dtype=bool)
    seen_near[first] = seen_near[second] = True
    distinct = np.unique(np.stack([alike, image]), axis=1)[0] if count else alike
    seen_near |= np.bincount(distinct, minlength=len(hashes)) > 1
    return Decision(
        splits,
        duplicates=count - len(shown),
        near_duplicates=int(sizes[seen_near].sum()) if near >= 0 else 0,
        across=across,
        example=example,
    )


def near_pairs(hashes: NDArray[np.uint64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of distinct hashes that differ in at most `most` bits, as indices; every pair is compared."""
    firsts, seconds = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    if most > 0:
        step = max(1, BLOCK // max(1, len(hashes)))
        for start in range(0, len(hashes), step):
            block = hashes[start : start + step, None]
            first, second = np.nonzero(np.bitwise_count(block ^ hashes[None, start:]) <= most)
            later = second > first
            firsts.append(start + first[later])
            seconds.append(start + second[later])
    return np.concatenate(firsts), np.concatenate(seconds)


def _positions(rows: Rows, part: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where in [0, 1) each part is, by the smallest hash of its groups: rows that are added move no others."""
    order = np.lexsort((rows.groups, part))
    heads = order[np.unique(part[order], return_index=True)[1]]
    smallest = rows.groups[heads]
    return np.array([int.from_bytes(key.ljust(16, b"\0")[:7]) / 2**56 for key in smallest.tolist()])


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

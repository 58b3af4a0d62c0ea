"""What determines a dataset: its recipe, and the shards in which it is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datagen.common.errors import UserError, suggest
from datagen.registry import find_dataset

SHARD_SIZE = 1000  # images in a shard: a few megabytes, and less than a second of one worker's time


@dataclass(frozen=True)
class DatasetConfig:
    """Everything that determines the bytes of a dataset (beside the versions of the libraries that write them)."""

    dataset: str
    version: str
    seed: int
    size: int
    shares: tuple[int, int, int]
    source: str
    options: Mapping[str, Any]

    def counts(self) -> dict[str, int]:
        """Images in each split; they add up to `size`."""
        _, validation, test = self.shares
        small = {"validation": self.size * validation // 100, "test": self.size * test // 100}
        return {"train": self.size - sum(small.values()), **small}

    def as_json(self) -> Any:
        """As it is read back from a manifest."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Shard:
    """Images `start` to `stop` of a split, one Parquet file in each config."""

    split: str
    number: int
    of: int
    start: int
    stop: int

    def path(self, config: str) -> str:
        """The file's path in the dataset folder, named as the Hub names shards."""
        return f"{config}/{self.split}-{self.number:05d}-of-{self.of:05d}.parquet"


def make_config(
    name: str,
    *,
    size: int,
    seed: int,
    shares: tuple[int, int, int] = (80, 10, 10),
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> DatasetConfig:
    """A checked recipe; the dataset's first source and the defaults of its options, unless they are given.

    Raises:
        UserError: for an unknown dataset, source or option, or a size that leaves a split empty.
    """
    options = options or {}
    spec = find_dataset(name)
    known = {option.name: option.default for option in spec.options}
    for option in options.keys() - known.keys():
        raise UserError(f"{name} has no option {option!r}: {suggest(option, list(known))}")
    if source is not None and source not in spec.sources:
        raise UserError(f"{name} is not drawn from {source}: take --source {' or '.join(spec.sources)}")
    recipe = DatasetConfig(spec.name, spec.version, seed, size, shares, source or spec.sources[0], {**known, **options})
    if sum(shares) != 100 or min(shares) < 1:
        raise UserError(
            f"--splits {'/'.join(map(str, shares))} must be three whole percentages of at least 1 that add up to 100"
        )
    if min(recipe.counts().values()) < 1:
        raise UserError(f"--size {size} leaves a split without an image: take at least {-(-100 // min(shares))}")
    return recipe


def list_shards(recipe: DatasetConfig) -> list[Shard]:
    """The shards of a recipe, in order."""
    shards = []
    for split, count in recipe.counts().items():
        starts = range(0, count, SHARD_SIZE)
        shards += [Shard(split, i, len(starts), at, min(at + SHARD_SIZE, count)) for i, at in enumerate(starts)]
    return shards

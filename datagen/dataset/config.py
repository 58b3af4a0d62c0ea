"""What determines a dataset: its configuration, and the shards in which it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from datagen.common.errors import UserError, suggest
from datagen.common.options import as_text
from datagen.registry import find_dataset
from datagen.task import DatasetSpec

SHARD_SIZE = 1000  # images in a shard: a few megabytes, and less than a second of one worker's time


class DatasetConfig(BaseModel):
    """Everything that determines the bytes of a dataset (beside the versions of the libraries that write them).

    `size` counts the images of all splits, `shares` are the percentages of train, validation and test. `source` names
    what the dataset is drawn from, the first of its sources unless it is given. `options` are the dataset's own, as
    values or as text of the command line (`{"digits": "1..3"}`); those that are not given take their defaults.

    Raises:
        UserError: for an unknown dataset, source or option, a wrong value of an option, or a split without an image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    seed: int = Field(0, ge=0)
    size: int = 5000
    shares: tuple[int, int, int] = (80, 10, 10)
    source: str = Field(default_factory=lambda values: find_dataset(values["dataset"]).sources[0])
    options: Mapping[str, Any] = Field(default_factory=dict, validate_default=True)

    @field_validator("dataset")
    @classmethod
    def _check_dataset(cls, dataset: str) -> str:
        return find_dataset(dataset).name

    @field_validator("source", mode="before")
    @classmethod
    def _check_source(cls, source: Any, info: ValidationInfo) -> Any:
        if "dataset" in info.data and source not in find_dataset(info.data["dataset"]).sources:
            spec = find_dataset(info.data["dataset"])
            raise UserError(f"{spec.name} is not drawn from {source}: take --source {' or '.join(spec.sources)}")
        return source

    @field_validator("options")
    @classmethod
    def _fill_options(cls, options: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        return _parse_options(find_dataset(info.data["dataset"]), options) if "dataset" in info.data else options

    @model_validator(mode="after")
    def _check_splits(self) -> DatasetConfig:
        shares = self.shares
        if sum(shares) != 100 or min(shares) < 1:
            raise UserError(
                f"--splits {'/'.join(map(str, shares))} must be three whole percentages of at least 1 that add up to "
                "100"
            )
        if min(self.counts().values()) < 1:
            least = -(-100 // min(shares))
            raise UserError(f"--size {self.size} leaves a split without an image: take at least {least}")
        return self

    @property
    def spec(self) -> DatasetSpec:
        """The definition of the dataset.

        Raises:
            UserError: where there is no dataset of that name.
        """
        return find_dataset(self.dataset)

    def counts(self) -> dict[str, int]:
        """Images in each split; they add up to `size`."""
        _, validation, test = self.shares
        small = {"validation": self.size * validation // 100, "test": self.size * test // 100}
        return {"train": self.size - sum(small.values()), **small}

    def as_json(self) -> dict[str, Any]:
        """As a manifest has it, with the version of the dataset, in this order of keys."""
        settings = self.model_dump(mode="json", exclude={"dataset"})
        return {"dataset": self.dataset, "version": self.spec.version, **settings}


def _parse_options(spec: DatasetSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a dataset, in its order: those that are given, checked, and the defaults of the others."""
    known = [option.name for option in spec.options]
    for name in given:
        if name not in known:
            raise UserError(f"{spec.name} has no option {name!r}: {suggest(name, known)}")
    values = {}
    for option in spec.options:
        try:
            values[option.name] = option.parse(as_text(given.get(option.name, option.default)))
        except ValueError as error:
            raise UserError(f"--{option.name}: {error}") from error
    return values


@dataclass(frozen=True)
class Shard:
    """Images `start` to `stop` of a split, one Parquet file in each table."""

    split: str
    number: int
    of: int
    start: int
    stop: int

    def path(self, table: str) -> str:
        """The file's path in the dataset folder, named as the Hub names shards."""
        return f"{table}/{self.split}-{self.number:05d}-of-{self.of:05d}.parquet"


def list_shards(config: DatasetConfig) -> list[Shard]:
    """The shards of a dataset, in order."""
    shards = []
    for split, count in config.counts().items():
        starts = range(0, count, SHARD_SIZE)
        shards += [Shard(split, i, len(starts), at, min(at + SHARD_SIZE, count)) for i, at in enumerate(starts)]
    return shards

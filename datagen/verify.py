"""Checking a dataset folder against what its manifest claims."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from datagen.build import MANIFEST, Recipe, Shard, make_manifest, plan, questions_of, raw_row, read_manifest, schemas
from datagen.errors import UserError
from datagen.files import sha256
from datagen.task import DatasetSpec
from datagen.tasks import DATASETS, TASKS

SAMPLE = 200  # images drawn again, unless all are


@dataclass(frozen=True)
class Proof:
    """What was found true of a dataset folder."""

    files: int
    images: int
    redrawn: int
    solutions: int
    manifest: dict[str, Any]


def verify(folder: Path, *, every: bool = False, seed: int = 0) -> Proof:
    """Check a dataset folder: every file's hash, the splits, and `SAMPLE` images (or `every` one) drawn again.

    A folder is right where all its files are those of the manifest, the manifest is what its recipe and files give, the
    images drawn again have the same bytes in both configs, and each of their solutions earns full marks.

    Raises:
        UserError: naming the first thing that is not as it is claimed.
    """
    manifest = read_manifest(folder)
    recipe, spec = recipe_of(folder, manifest)
    check_hashes(folder, manifest)
    shards = plan(recipe)
    wanted = choose(shards, None if every else SAMPLE, seed)
    solutions = 0
    with tqdm(
        total=sum(map(len, wanted.values())), desc=f"drawing {spec.name} again", unit="image", disable=None
    ) as progress:
        for shard, indices in wanted.items():
            solutions += compare_shard(folder, recipe, spec, shard, indices)
            progress.update(len(indices))
    check_manifest(folder, manifest, recipe)
    return Proof(len(manifest["files"]), recipe.size, sum(map(len, wanted.values())), solutions, manifest)


def recipe_of(folder: Path, manifest: dict[str, Any]) -> tuple[Recipe, DatasetSpec]:
    """The recipe in a manifest and its dataset.

    Raises:
        UserError: where this version of r1vlm cannot have drawn it.
    """
    try:
        recipe = Recipe(**manifest["recipe"])
        spec = DATASETS[recipe.dataset]
        expected = {shard.path(config) for shard in plan(recipe) for config in schemas(spec)}
        files = set(manifest["files"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged: it holds no recipe that r1vlm knows") from error
    if recipe.version != spec.version:
        raise UserError(
            f"{folder} was drawn by version {recipe.version} of {spec.name}, and this r1vlm draws version "
            f"{spec.version}: verify it with the r1vlm that drew it"
        )
    if files != expected:
        odd = sorted(files ^ expected)[0]
        raise UserError(f"{folder / MANIFEST} was edited: its files are not those of its recipe ({odd})")
    return recipe, spec


def check_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise a `UserError` naming the first file that is missing, is not in the manifest, or has other bytes."""
    present = {str(path.relative_to(folder)) for path in folder.glob("*/*") if path.is_file()}
    for name in sorted(present - set(manifest["files"])):
        raise UserError(f"{folder / name} is not in the manifest: remove it")
    for name, expected in tqdm(manifest["files"].items(), desc="hashing", unit="file", disable=None):
        if name not in present:
            raise UserError(f"{folder / name} is missing: build the dataset again")
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is not what was built (another SHA-256): build the dataset again")


def choose(shards: list[Shard], count: int | None, seed: int) -> dict[Shard, list[int]]:
    """The images of each shard to draw again: all, or a random `count` of all shards together."""
    every = [(shard, index) for shard in shards for index in range(shard.start, shard.stop)]
    chosen = every if count is None else random.Random(seed).sample(every, min(count, len(every)))  # noqa: S311
    wanted: dict[Shard, list[int]] = {}
    for shard, index in sorted(chosen, key=lambda one: (one[0].split, one[1])):
        wanted.setdefault(shard, []).append(index)
    return wanted


def compare_shard(folder: Path, recipe: Recipe, spec: DatasetSpec, shard: Shard, indices: list[int]) -> int:
    """Draw the images `indices` of a shard again and compare every column; returns how many solutions were judged."""
    kept = {config: pq.read_table(folder / shard.path(config)).to_pylist() for config in schemas(spec)}
    if len(kept["raw"]) != shard.stop - shard.start:
        raise UserError(f"{folder / shard.path('raw')} has {len(kept['raw'])} rows, not {shard.stop - shard.start}")
    raw = {row["id"]: row for row in kept["raw"]}
    questions = {row["id"]: row for row in kept["r1"]}
    judged = 0
    for index in indices:
        again = raw_row(spec, recipe, shard.split, index)
        _same_row(folder / shard.path("raw"), again, raw.get(again["id"]))
        for question in questions_of(spec, [again]):
            _same_row(folder / shard.path("r1"), question, questions.get(question["id"]))
            rewards = TASKS[question["task"]].rewards
            short = [name for name, reward in rewards.items() if reward(question["solution"], question) != 1.0]
            if short:
                raise UserError(f"the solution of {question['id']} does not earn full marks ({', '.join(short)})")
            judged += 1
    return judged


def _same_row(path: Path, drawn: dict[str, Any], kept: dict[str, Any] | None) -> None:
    if kept is None:
        raise UserError(f"{path} lacks {drawn['id']}: build the dataset again")
    for column, value in drawn.items():
        if kept[column] != value:
            raise UserError(f"{path}: {column} of {drawn['id']} is not what its recipe draws")


def check_manifest(folder: Path, manifest: dict[str, Any], recipe: Recipe) -> None:
    """Make the manifest again from the recipe and the files, and raise a `UserError` naming the first difference.

    The versions of the libraries are what they were: they are no claim that can be checked.
    """
    again = make_manifest(folder, recipe)
    for name in {**again, **manifest}:
        if name != "versions" and manifest.get(name) != again.get(name):
            raise UserError(f"{folder / MANIFEST}: {name} is not what the recipe and the files give: it was edited")
    card = folder / "README.md"
    if not card.is_file() or manifest["fingerprint"] not in card.read_text(encoding="utf-8"):
        raise UserError(f"{card} is not the card of these files: build the dataset again")

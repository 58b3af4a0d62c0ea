"""Checking a dataset folder against what its manifest claims."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.common.options import as_text
from datagen.common.versions import version_mismatches
from datagen.dataset.config import DatasetConfig, Shard, list_shards, make_config
from datagen.dataset.manifest import MANIFEST, card_of, example_files, make_manifest, read_manifest
from datagen.dataset.shards import make_questions, question_id, raw_row, row_id
from datagen.hub.cards import CARD
from datagen.registry import TASKS, find_dataset
from datagen.schema import arrow_schemas
from datagen.task import DatasetSpec, score

SAMPLE = 200  # images drawn again, unless all are


@dataclass(frozen=True)
class Proof:
    """What was found true of a dataset folder."""

    files: int
    images: int
    redrawn: int
    solutions: int
    manifest: dict[str, Any]


def verify(folder: Path, *, every: bool = False) -> Proof:
    """Check a dataset folder: every file's hash, the splits, and `SAMPLE` random images (or `every` one) drawn again.

    A folder is right where its files are those of the manifest, manifest and card are what recipe and files give, the
    splits are disjoint, the rows of the files looked into are those of the recipe, the images drawn again have the
    same bytes in both configs, and each of their solutions earns full marks.

    Raises:
        UserError: naming the first thing that is not as it is claimed.
    """
    manifest = read_manifest(folder)
    try:
        return _verify(folder, manifest, every)
    except UserError as error:
        noted = manifest.get("versions")
        others = version_mismatches(noted if isinstance(noted, dict) else {})
        if not others:
            raise
        raise UserError(f"{error} (other versions may draw otherwise: {', '.join(others)})") from error


def _verify(folder: Path, manifest: dict[str, Any], every: bool) -> Proof:
    recipe, spec = recipe_of(folder, manifest)
    check_hashes(folder, manifest)
    wanted = sample_indices(list_shards(recipe), None if every else SAMPLE)
    solutions, redrawn = 0, sum(map(len, wanted.values()))
    with tqdm(total=redrawn, desc=f"drawing {spec.name} again", unit="image", disable=None) as progress:
        for shard, indices in wanted.items():
            solutions += compare_shard(folder, recipe, spec, shard, indices)
            progress.update(len(indices))
    check_manifest(folder, manifest, recipe)
    return Proof(len(manifest["files"]), recipe.size, redrawn, solutions, manifest)


def recipe_of(folder: Path, manifest: dict[str, Any]) -> tuple[DatasetConfig, DatasetSpec]:
    """The recipe in a manifest and its dataset.

    Raises:
        UserError: where this version of r1vlm cannot have drawn it.
    """
    damaged = UserError(f"{folder / MANIFEST} is damaged or was edited: it holds no recipe that r1vlm knows")
    claimed = manifest["recipe"]
    try:
        spec = find_dataset(claimed["dataset"])
        if claimed["version"] != spec.version:
            raise UserError(
                f"{folder} was drawn by version {claimed['version']!r} of {spec.name}, and this r1vlm draws version "
                f"{spec.version!r}: verify it with the r1vlm that drew it"
            )
        options = {option.name: option.parse(as_text(claimed["options"][option.name])) for option in spec.options}
        numbers = {name: int(claimed[name]) for name in ("size", "seed")}
        first, second, third = claimed["shares"]
        recipe = make_config(
            spec.name, **numbers, shares=(first, second, third), source=claimed["source"], options=options
        )
    except (TypeError, KeyError, ValueError, AttributeError, argparse.ArgumentTypeError) as error:
        raise damaged from error
    if recipe.as_json() != claimed:
        raise damaged
    expected = {shard.path(config) for shard in list_shards(recipe) for config in arrow_schemas(spec)} | {
        *example_files(recipe)
    }
    if expected != manifest["files"].keys():
        odd = sorted(expected ^ manifest["files"].keys())[0]
        raise UserError(f"{folder / MANIFEST} was edited: its files are not those of its recipe ({odd})")
    return recipe, spec


def check_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise a `UserError` naming the first file that is missing, is not in the manifest, or has other bytes.

    Files and folders whose names begin with a dot are not ours: the Hub's tools and git leave some.
    """
    places = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    present = {str(path) for path in places if not any(part.startswith(".") for part in path.parts)}
    for name in sorted(present - {*manifest["files"], MANIFEST, CARD}):
        raise UserError(f"{folder / name} is not in the manifest: remove it")
    for name, expected in tqdm(manifest["files"].items(), desc="hashing", unit="file", disable=None):
        if name not in present:
            raise UserError(f"{folder / name} is missing: build the dataset again")
        if sha256(folder / name) != expected:
            raise UserError(f"{folder / name} is not what was built (another SHA-256): build the dataset again")


def sample_indices(shards: list[Shard], count: int | None) -> dict[Shard, list[int]]:
    """The images of each shard to draw again: all, or a random `count` of all shards together."""
    every = [(shard, index) for shard in shards for index in range(shard.start, shard.stop)]
    chosen = every if count is None else random.sample(every, min(count, len(every)))
    wanted: dict[Shard, list[int]] = {}
    for shard, index in sorted(chosen, key=lambda one: (one[0].split, one[1])):
        wanted.setdefault(shard, []).append(index)
    return wanted


def compare_shard(folder: Path, recipe: DatasetConfig, spec: DatasetSpec, shard: Shard, indices: list[int]) -> int:
    """Check a shard's rows, and draw the images `indices` again; returns how many solutions were judged."""
    kept = {config: _read(folder / shard.path(config), schema) for config, schema in arrow_schemas(spec).items()}
    expected = [row_id(spec, recipe, shard.split, index) for index in range(shard.start, shard.stop)]
    _same_ids(folder / shard.path("raw"), expected, kept["raw"])
    asked = [question_id(row, task) for row in kept["raw"] for task in spec.tasks if task.applies_to(row)]
    _same_ids(folder / shard.path("r1"), asked, kept["r1"])
    questions = {row["id"]: row for row in kept["r1"]}
    judged = 0
    for index in indices:
        again = raw_row(spec, recipe, shard.split, index)
        _same_row(folder / shard.path("raw"), again, kept["raw"][index - shard.start])
        for question in make_questions(spec, [again]):
            _same_row(folder / shard.path("r1"), question, questions[question["id"]])
            scores = score(TASKS[question["task"]], question["solution"], question)
            short = [name for name, value in scores.items() if value != 1.0]
            if short:
                raise UserError(f"the solution of {question['id']} does not earn full marks ({', '.join(short)})")
            judged += 1
    return judged


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()  # read_table would import pandas
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is no Parquet file: build the dataset again") from error
    if not table.schema.equals(schema):
        raise UserError(f"{path} has other columns than its dataset: build it again")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _same_ids(path: Path, expected: Iterable[str], rows: list[dict[str, Any]]) -> None:
    if list(expected) != [row["id"] for row in rows]:
        raise UserError(f"{path} does not hold the rows of its recipe, in order: build the dataset again")


def _same_row(path: Path, drawn: dict[str, Any], kept: dict[str, Any]) -> None:
    for column, value in drawn.items():
        if kept[column] != value:
            raise UserError(f"{path}: {column} of {drawn['id']} is not what its recipe draws")


def _old_reward_hashes(manifest: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, str]:
    """Those reward hashes in a manifest that are of the older kind: 16 hexadecimal digits."""
    recorded = manifest.get("reward_hash")
    hashes = {task: str(recorded.get(task)) for task in tasks} if isinstance(recorded, dict) else {}
    return {task: digest for task, digest in hashes.items() if re.fullmatch(r"[0-9a-f]{16}", digest)}


def check_manifest(folder: Path, manifest: dict[str, Any], recipe: DatasetConfig) -> None:
    """Make manifest and card again from the recipe and the files, and raise a `UserError` naming the first difference.

    The hashes have been checked before. The versions of the libraries are what they were: no claim that can be checked.
    Nor are reward hashes of the older kind.
    """
    again = make_manifest(folder, recipe, manifest["files"]) | {"versions": manifest.get("versions")}
    again["reward_hash"] |= _old_reward_hashes(manifest, again["reward_hash"])
    for name in sorted(manifest.keys() | again.keys()):
        if name not in manifest or name not in again or manifest[name] != again[name]:
            raise UserError(
                f"{folder / MANIFEST}: {name} is not what the recipe and the files give: it was edited, or r1vlm has "
                "changed since"
            )
    shared = {what: count for what, count in manifest["splits"]["shared_between_splits"].items() if count}
    if shared:
        raise UserError(f"{folder} has splits that share {shared}: do not use it")
    for name, picture in example_files(recipe).items():
        if (folder / name).read_bytes() != picture:
            raise UserError(f"{folder / name} is not what its recipe draws: build the dataset again")
    card = folder / CARD
    if not card.is_file() or card.read_bytes() != card_of(manifest).encode():
        raise UserError(f"{card} is not the card of this manifest: it was edited, or r1vlm has changed since")

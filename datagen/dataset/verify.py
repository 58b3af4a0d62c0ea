"""Checking a dataset folder against what its manifest claims."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.common.options import as_text
from datagen.common.versions import version_mismatches
from datagen.dataset.config import DatasetConfig, Shard, list_shards
from datagen.dataset.manifest import (
    MANIFEST,
    code_mismatches,
    example_files,
    find_built_dataset,
    make_card,
    make_manifest,
    read_manifest,
)
from datagen.dataset.shards import make_questions, question_id, raw_row, read_shard, row_id
from datagen.environment import trace_of
from datagen.hub.cards import CARD
from datagen.registry import find_task, owner_of
from datagen.schema import TABLES, arrow_schemas
from datagen.task import score

SAMPLE = 200  # images drawn again, unless all are


@dataclass(frozen=True)
class Proof:
    """What was found true of a dataset folder."""

    files: int
    images: int
    redrawn: int
    solutions: int
    manifest: dict[str, Any]
    how: str = "drawn again: the same bytes, in both configs"


def verify(folder: Path, *, every: bool = False) -> Proof:
    """Check a dataset folder: every file's hash, the splits, and `SAMPLE` random images (or `every` one) drawn again.

    A folder is right where its files are those of the manifest, manifest and card are what recipe and files give, the
    splits are disjoint, the rows of the files looked into are those of the recipe, the images drawn again have the
    same bytes in both tables, and each of their solutions earns full marks.

    Raises:
        UserError: naming the first thing that is not as it is claimed.
    """
    manifest = read_manifest(folder)
    try:
        return _verify(folder, manifest, every)
    except UserError as error:
        recorded = manifest.get("versions")
        mismatches = version_mismatches(recorded if isinstance(recorded, dict) else {}) + code_mismatches(manifest)
        if not mismatches:
            raise
        raise UserError(f"{error} (other versions may draw otherwise: {', '.join(mismatches)})") from error


def _verify(folder: Path, manifest: dict[str, Any], every: bool) -> Proof:
    if find_built_dataset(folder, manifest).draw is None:
        from datagen.dataset.importing.describe import verify_imported

        check_hashes(folder, manifest)
        images, questions = verify_imported(folder, manifest)
        return Proof(
            len(manifest["files"]), images, images, questions, manifest, "decoded again: the pixels of their rows"
        )
    config = read_config(folder, manifest)
    check_hashes(folder, manifest)
    wanted = sample_indices(list_shards(config), None if every else SAMPLE)
    solutions, redrawn = 0, sum(map(len, wanted.values()))
    with tqdm(total=redrawn, desc=f"drawing {config.dataset} again", unit="image", disable=None) as progress:
        for shard, indices in wanted.items():
            solutions += compare_shard(folder, config, shard, indices)
            progress.update(len(indices))
    check_manifest(folder, manifest, config)
    return Proof(len(manifest["files"]), config.size, redrawn, solutions, manifest)


def read_config(folder: Path, manifest: dict[str, Any]) -> DatasetConfig:
    """The configuration that a manifest claims.

    Raises:
        UserError: where this version of r1vlm cannot have drawn it.
    """
    damaged = UserError(f"{folder / MANIFEST} is damaged or was edited: it holds no recipe that r1vlm knows")
    recipe = manifest["recipe"]
    try:
        spec = find_built_dataset(folder, manifest)
        if recipe["version"] != spec.version:
            raise UserError(
                f"{folder} was drawn by version {recipe['version']!r} of {spec.name}, and {owner_of(spec.name)} draws "
                f"version {spec.version!r} here: verify it with the one that drew it"
            )
        options = {option.name: option.parse(as_text(recipe["options"][option.name])) for option in spec.options}
        settings = {name: recipe[name] for name in ("size", "seed", "shares", "source")}
        config = DatasetConfig(dataset=spec.name, **settings, options=options)
    except (TypeError, KeyError, ValueError) as error:
        raise damaged from error
    if config.as_json() != recipe:
        raise damaged
    shards = {shard.path(table) for shard in list_shards(config) for table in TABLES}
    expected = shards | example_files(config).keys()
    if expected != manifest["files"].keys():
        odd = sorted(expected ^ manifest["files"].keys())[0]
        raise UserError(f"{folder / MANIFEST} was edited: its files are not those of its recipe ({odd})")
    return config


def check_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise a `UserError` naming the first file that is missing, is not in the manifest, or has other bytes.

    Files and folders whose names begin with a dot are not ours: the Hub's tools and git leave some.
    """
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    present = {str(path) for path in paths if not any(part.startswith(".") for part in path.parts)}
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


def compare_shard(folder: Path, config: DatasetConfig, shard: Shard, indices: list[int]) -> int:
    """Check a shard's rows, and draw the images `indices` again; returns how many solutions were judged.

    Raises:
        UserError: naming the first row, column or solution that is not what the recipe gives.
    """
    spec = config.spec
    stored = {table: read_shard(folder / shard.path(table), schema) for table, schema in arrow_schemas(spec).items()}
    image_ids = [row_id(config, shard.split, index) for index in range(shard.start, shard.stop)]
    _check_ids(folder / shard.path("raw"), image_ids, stored["raw"])
    question_ids = [question_id(row, task) for row in stored["raw"] for task in spec.tasks if task.applies_to(row)]
    _check_ids(folder / shard.path("r1"), question_ids, stored["r1"])
    stored_questions = {row["id"]: row for row in stored["r1"]}
    judged = 0
    for index in indices:
        raw = raw_row(config, shard.split, index)
        _check_row(folder / shard.path("raw"), raw, stored["raw"][index - shard.start])
        for question in make_questions(spec, [raw]):
            _check_row(folder / shard.path("r1"), question, stored_questions[question["id"]])
            task = find_task(question["task"])
            scores = score(task, trace_of(task, question), question)
            short = [name for name, value in scores.items() if value != 1.0]
            if short:
                raise UserError(f"the solution of {question['id']} does not earn full marks ({', '.join(short)})")
            judged += 1
    return judged


def _check_ids(path: Path, expected: list[str], rows: list[dict[str, Any]]) -> None:
    if expected != [row["id"] for row in rows]:
        raise UserError(f"{path} does not hold the rows of its recipe, in order: build the dataset again")


def _check_row(path: Path, drawn: dict[str, Any], stored: dict[str, Any]) -> None:
    for column, value in drawn.items():
        if stored[column] != value:
            raise UserError(f"{path}: {column} of {drawn['id']} is not what its recipe draws")


def _old_reward_hashes(manifest: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, str]:
    """Those reward hashes in a manifest that are of the older kind: 16 hexadecimal digits."""
    recorded = manifest.get("reward_hash")
    hashes = {task: str(recorded.get(task)) for task in tasks} if isinstance(recorded, dict) else {}
    return {task: digest for task, digest in hashes.items() if re.fullmatch(r"[0-9a-f]{16}", digest)}


def check_manifest(folder: Path, manifest: dict[str, Any], config: DatasetConfig) -> None:
    """Make manifest and card again from the recipe and the files, and raise a `UserError` naming the first difference.

    The hashes have been checked before. The versions of the libraries, and the code of a dataset that is not built in,
    are what they were: no claim that can be checked. Nor are reward hashes of the older kind.
    """
    again = make_manifest(folder, config, manifest["files"])
    again |= {name: manifest.get(name) for name in ("versions", "code") if name in again}
    again["reward_hash"] |= _old_reward_hashes(manifest, again["reward_hash"])
    for name in sorted(manifest.keys() | again.keys()):
        if name not in manifest or name not in again or manifest[name] != again[name]:
            raise UserError(
                f"{folder / MANIFEST}: {name} is not what the recipe and the files give: it was edited, or r1vlm has "
                "changed since"
            )
    shared = {column: count for column, count in manifest["splits"]["shared_between_splits"].items() if count}
    if shared:
        raise UserError(f"{folder} has splits that share {shared}: do not use it")
    for name, picture in example_files(config).items():
        if (folder / name).read_bytes() != picture:
            raise UserError(f"{folder / name} is not what its recipe draws: build the dataset again")
    card = folder / CARD
    if not card.is_file() or card.read_bytes() != make_card(manifest).encode():
        raise UserError(
            f"{card} is not the card of this manifest, since it was edited, or r1vlm has changed: write it anew with "
            f" r1vlm-data card {folder}"
        )

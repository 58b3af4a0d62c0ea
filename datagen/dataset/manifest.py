"""What a dataset folder says of itself: the proof of its splits, the audit of its rewards, manifest and card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datagen.common.errors import UserError
from datagen.common.files import sha256, write_bytes, write_json, write_text
from datagen.common.versions import dataset_versions
from datagen.dataset.config import DatasetConfig
from datagen.dataset.executors import Executor
from datagen.dataset.shards import sample_questions
from datagen.hub.cards import CARD, dataset_card
from datagen.registry import DATASETS
from datagen.reward_audit import audit, summary
from datagen.sources.catalog import load_source
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, reward_hash

Parts = dict[str, NDArray[np.bytes_]]
MANIFEST = "manifest.json"
EXAMPLES = "examples"
CONFIGS = ("r1", "raw")


def prove(folder: Path, spec: DatasetSpec, engine: Executor = map) -> dict[str, Any]:
    """Read the written files back and see whether the splits are disjoint.

    Returns, for each split, the number of images, of distinct images, and of distinct values of each column that
    must be disjoint, and the number of values that two splits share. Memory is 16 bytes
    for each of these values.
    """
    parts: dict[str, list[Parts]] = {split: [] for split in SPLITS}
    for split, part in engine(partial(_parts, spec.disjoint), sorted((folder / "raw").glob("*.parquet"))):
        parts[split].append(part)
    found = {
        split: {
            what: np.unique(np.concatenate([part[what] for part in parts[split]]))
            for what in ("images", *spec.disjoint)
        }
        for split in SPLITS
    }
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    shared = {
        what: sum(len(np.intersect1d(found[a][what], found[b][what], assume_unique=True)) for a, b in pairs)
        for what in found["train"]
    }
    images = {split: sum(len(part["images"]) for part in parts[split]) for split in SPLITS}
    distinct = {split: {what: len(values) for what, values in seen.items()} for split, seen in found.items()}
    return {"images": images, "distinct": distinct, "shared_between_splits": shared}


def _parts(columns: Sequence[str], path: Path) -> tuple[str, Parts]:
    """The split of a file of `raw`, and the digests of its images and of the values of some columns."""
    with path.open("rb") as file:
        table = pq.ParquetFile(file).read(columns=["image", *columns])
    pictures = table["image"].combine_chunks().field("bytes")
    parts = {"images": _digests(pictures)}
    for column in columns:
        values = table[column].combine_chunks()
        flat = values.flatten() if pa.types.is_list(values.type) else values
        parts[column] = _digests(flat.unique())
    return path.name.partition("-")[0], parts


def _digests(values: pa.Array) -> NDArray[np.bytes_]:
    """The first 16 bytes of the SHA-256 of each value of a column of bytes or text that has no nulls."""
    _, offsets, content = values.buffers()  # all values one after the other, and where each ends: nothing is copied
    ends = np.frombuffer(offsets, dtype=np.int32)[values.offset : values.offset + len(values) + 1].tolist()
    parts = (memoryview(content)[start:end] for start, end in pairwise(ends))
    return np.frombuffer(b"".join(hashlib.sha256(part).digest()[:16] for part in parts), dtype="S16")


def hash_files(folder: Path, engine: Executor = map) -> dict[str, str]:
    """The SHA-256 of every Parquet file of both configs, and of the card's pictures, by their paths in the folder."""
    places = ((config, "*.parquet") for config in CONFIGS)
    paths = [path for place, pattern in (*places, (EXAMPLES, "*.png")) for path in (folder / place).glob(pattern)]
    return dict(engine(partial(_hash_in, folder), paths))


def _hash_in(folder: Path, path: Path) -> tuple[str, str]:
    return str(path.relative_to(folder)), sha256(path)


def example_files(recipe: DatasetConfig) -> dict[str, bytes]:
    """The pictures that the card shows, by their paths in the folder."""
    return {example_path(row): row["image"]["bytes"] for row in shown_questions(recipe)}


def example_path(question: Mapping[str, Any]) -> str:
    """Where the picture of a question on the card is."""
    return f"{EXAMPLES}/{question['image_id']}.png"


def shown_questions(recipe: DatasetConfig) -> list[dict[str, Any]]:
    """What the card shows: three questions or more, of each task the first of the train split."""
    asked = [questions for questions in sample_questions(recipe, 12).values() if questions]
    return [question for questions in asked for question in questions[: -(-3 // len(asked))]]


def tables_of(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Rows, bytes uncompressed and bytes stored, of each split of each config."""
    tables: dict[str, dict[str, dict[str, int]]] = {}
    for config in CONFIGS:
        for split in SPLITS:
            sums = tables.setdefault(config, {})[split] = {"rows": 0, "bytes": 0, "stored": 0}
            for path in sorted((folder / config).glob(f"{split}-*.parquet")):
                with path.open("rb") as file:
                    about = pq.read_metadata(file)
                sums["rows"] += about.num_rows
                sums["bytes"] += sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
                sums["stored"] += path.stat().st_size
    return tables


def make_manifest(
    folder: Path, recipe: DatasetConfig, files: Mapping[str, str], engine: Executor = map
) -> dict[str, Any]:
    """What a folder of drawn files holds, with the proof that its splits are disjoint and the audit of its rewards.

    `files` are their hashes.
    """
    spec = DATASETS[recipe.dataset]
    files = dict(sorted(files.items()))
    return {
        "recipe": recipe.as_json(),
        "fingerprint": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "source_sha256": load_source(recipe.source).fingerprint,
        "versions": dataset_versions(),
        "reward_hash": {task.name: reward_hash(task) for task in spec.tasks},
        "splits": prove(folder, spec, engine),
        "tables": tables_of(folder),
        "audit": audit_of(recipe),
        "files": files,
    }


def audit_of(recipe: DatasetConfig, images: int = 12) -> dict[str, Any]:
    """The reward attacks on each task's questions about the first images of the train split, in short."""
    asked = sample_questions(recipe, images)
    tasks = [task for task in DATASETS[recipe.dataset].tasks if asked[task.name]]
    return {task.name: summary(audit(task, asked[task.name])) for task in tasks}


def write_manifest(folder: Path, recipe: DatasetConfig, engine: Executor = map) -> None:
    """Write the manifest, and the card that is filled from it.

    Raises:
        RuntimeError: where two splits share what they must not, or a reward gave way. That is a mistake of ours.
    """
    for path, picture in example_files(recipe).items():
        write_bytes(folder / path, picture)
    manifest = make_manifest(folder, recipe, hash_files(folder, engine), engine)
    shared, audited = manifest["splits"]["shared_between_splits"], manifest["audit"]
    if any(shared.values()) or any(found["broke"] for found in audited.values()):
        raise RuntimeError(f"splits share {shared}; attacks on the rewards: {audited}")
    write_card(folder, manifest)
    write_json(folder / MANIFEST, manifest)


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the card of a dataset folder."""
    write_text(folder / CARD, card_of(manifest))


def card_of(manifest: Mapping[str, Any]) -> str:
    """The dataset card, filled from a manifest."""
    recipe = DatasetConfig(**manifest["recipe"])
    spec = DATASETS[recipe.dataset]
    questions = shown_questions(recipe)
    return dataset_card(spec, manifest, [(example_path(question), question) for question in questions])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder.

    Raises:
        UserError: where there is no such folder, or it has no manifest that can be read.
    """
    if not folder.exists():
        raise UserError(f"there is no dataset {folder}: build one with  r1vlm-data build digits --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is not a dataset folder (no {MANIFEST} in it): name what r1vlm-data build wrote")
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    kinds = {"recipe": dict, "fingerprint": str, "files": dict}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"{folder / MANIFEST} is damaged: build the dataset again")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], config: str = "") -> None:
    """Raise a `UserError` that names the first file of the manifest (of one config) that is not in the folder."""
    if not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / MANIFEST} is damaged: delete the folder and build it again")
    for name in manifest["files"]:
        if name.startswith(config) and not (folder / name).is_file():
            raise UserError(f"{folder} is damaged, {name} is missing: delete the folder and build it again")


def read_json(path: Path) -> Any:
    """What a JSON file holds; an empty dictionary where there is none, or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

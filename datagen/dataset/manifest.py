"""What a dataset folder says of itself: the proof of its splits, the audit of its rewards, manifest and card."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, StringConstraints

from datagen.common.errors import UserError
from datagen.common.files import sha256, write_bytes, write_json, write_text
from datagen.common.untrusted import Digest, Word, check_shape, read_object
from datagen.common.versions import dataset_versions
from datagen.dataset.config import DatasetConfig
from datagen.dataset.executors import Executor
from datagen.dataset.reward_audit import audit, summary
from datagen.dataset.shards import sample_questions
from datagen.hub.cards import CARD, dataset_card
from datagen.hub.record import CodeRecord
from datagen.registry import CODE, errors_explained, find_dataset, known_datasets, owner_of
from datagen.schema import TABLES
from datagen.sources.catalog import load_source
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, reward_hash

Digests = dict[str, NDArray[np.bytes_]]
"""The distinct values of each column (or of all images), each as the 128 bits of its XXH3."""

MANIFEST = "manifest.json"
EXAMPLES = "examples"
ADVICE = "build or download the dataset again"
FileName = Annotated[str, StringConstraints(pattern=re.compile(r"\A\w[\w.-]{0,99}/\w[\w.-]{0,99}\Z", re.ASCII))]


class Audit(BaseModel):
    """What a manifest says of the attacks on a task's rewards."""

    model_config = ConfigDict(strict=True)

    attacks: int
    broke: list[Word]
    most_undue: dict[Word, float]


class Splits(BaseModel):
    """What a manifest says of the splits."""

    model_config = ConfigDict(strict=True)

    images: dict[Word, int]
    distinct: dict[Word, dict[Word, int]]
    shared_between_splits: dict[Word, int]


class Recipe(BaseModel):
    """What a manifest says of the configuration, with the version of the dataset."""

    model_config = ConfigDict(strict=True)

    dataset: Word
    version: Word
    seed: int
    size: int
    shares: list[int]
    source: Word
    options: dict[Word, Any]


class Manifest(BaseModel):
    """The shape of a manifest, so far as it goes: `verify` names what is missing, too much, or untrue."""

    model_config = ConfigDict(strict=True)

    recipe: Recipe
    fingerprint: Digest
    files: dict[FileName, Digest]
    source_sha256: Digest | None = None
    versions: dict[Word, Word] = {}
    code: CodeRecord | None = None
    reward_hash: dict[Word, Word] = {}
    splits: Splits | None = None
    tables: dict[Word, dict[Word, dict[Word, int]]] = {}
    audit: dict[Word, Audit] = {}


def compare_splits(folder: Path, spec: DatasetSpec, executor: Executor = map) -> dict[str, Any]:
    """Read the written files back and see whether the splits are disjoint.

    Returns, for each split, the number of images, of distinct images, and of distinct values of each column that
    must be disjoint, and the number of values that two splits share. Memory is 16 bytes for each of these values.
    """
    digests: dict[str, list[Digests]] = {split: [] for split in SPLITS}
    digest = partial(_digest_file, spec.image_column, spec.disjoint)
    for split, of_file in executor(digest, sorted((folder / "raw").glob("*.parquet"))):
        digests[split].append(of_file)
    distinct = {
        split: {
            name: np.unique(np.concatenate([of_file[name] for of_file in digests[split]]))
            for name in ("images", *spec.disjoint)
        }
        for split in SPLITS
    }
    pairs = [(distinct[first], distinct[second]) for first, second in combinations(SPLITS, 2)]
    shared = {
        name: sum(len(np.intersect1d(one[name], other[name], assume_unique=True)) for one, other in pairs)
        for name in ("images", *spec.disjoint)
    }
    return {
        "images": {split: sum(len(of_file["images"]) for of_file in digests[split]) for split in SPLITS},
        "distinct": {split: {name: len(values) for name, values in distinct[split].items()} for split in SPLITS},
        "shared_between_splits": shared,
    }


def _digest_file(image_column: str, columns: Sequence[str], path: Path) -> tuple[str, Digests]:
    """The split of a file of `raw`, and the digests of its images and of the values of some columns."""
    found: dict[str, list[NDArray[np.bytes_]]] = {name: [] for name in ("images", *columns)}
    with path.open("rb") as file:
        parquet = pq.ParquetFile(file)
        for number in range(parquet.num_row_groups):  # that of a shard of photographs does not fit into memory
            rows = parquet.read_row_group(number, columns=[image_column, *columns])
            found["images"].append(_digest(_values(rows, image_column).field("bytes")))
            for column in columns:
                found[column].append(_digest(_values(rows, column).unique()))
    return path.name.partition("-")[0], {name: np.concatenate(values) for name, values in found.items()}


def _values(rows: pa.Table, column: str) -> pa.Array:
    """The values of a column, of lists those in the lists."""
    values = rows[column].combine_chunks()
    return values.flatten() if pa.types.is_list(values.type) else values


def _digest(values: pa.Array) -> NDArray[np.bytes_]:
    """The XXH3 (128 bits) of each value of a column of bytes or text that has no nulls.

    Two values with one hash would be found shared: what is found disjoint is so.
    """
    _, offsets, content = values.buffers()  # all values one after the other, and where each ends: nothing is copied
    ends = np.frombuffer(offsets, dtype=np.int32)[values.offset : values.offset + len(values) + 1].tolist()
    pieces = (memoryview(content)[start:end] for start, end in pairwise(ends))
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, pieces)), dtype="S16")


def hash_files(folder: Path, executor: Executor = map) -> dict[str, str]:
    """The SHA-256 of every Parquet file of both tables, and of the card's pictures, by their paths in the folder."""
    patterns = (*((table, "*.parquet") for table in TABLES), (EXAMPLES, "*.png"))
    paths = [path for name, pattern in patterns for path in (folder / name).glob(pattern)]
    return dict(executor(partial(_hash_in, folder), paths))


def _hash_in(folder: Path, path: Path) -> tuple[str, str]:
    return str(path.relative_to(folder)), sha256(path)


def example_files(config: DatasetConfig) -> dict[str, bytes]:
    """The pictures that the card shows, by their paths in the folder."""
    return {example_path(row): row["image"]["bytes"] for row in card_questions(config)}


def example_path(question: Mapping[str, Any]) -> str:
    """Where the picture of a question on the card is."""
    return f"{EXAMPLES}/{question['image_id' if 'image' in question else 'id']}.png"


def card_questions(config: DatasetConfig) -> list[dict[str, Any]]:
    """What the card shows: three questions or more, of each task the first of the train split."""
    by_task = [questions for questions in sample_questions(config, 12).values() if questions]
    return [question for questions in by_task for question in questions[: -(-3 // len(by_task))]]


def table_sizes(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Rows, bytes uncompressed and bytes stored, of each split of each table."""
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    for table in TABLES:
        for split in SPLITS:
            sums = sizes.setdefault(table, {})[split] = {"rows": 0, "bytes": 0, "stored": 0}
            for path in sorted((folder / table).glob(f"{split}-*.parquet")):
                with path.open("rb") as file:
                    metadata = pq.read_metadata(file)
                sums["rows"] += metadata.num_rows
                sums["bytes"] += sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
                sums["stored"] += path.stat().st_size
    return sizes


def make_manifest(
    folder: Path, config: DatasetConfig, files: Mapping[str, str], executor: Executor = map
) -> dict[str, Any]:
    """What a folder of drawn files holds, with the proof that its splits are disjoint and the audit of its rewards.

    `files` are their hashes.

    Raises:
        UserError: where the source must be downloaded and can't be, or the code of the dataset raises.
    """
    files = dict(sorted(files.items()))
    return {
        "recipe": config.as_json(),
        "fingerprint": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "source_sha256": load_source(config.source).fingerprint,
        "versions": dataset_versions(),
        **code_record(config.dataset),
        "reward_hash": {task.name: reward_hash(task) for task in config.spec.tasks},
        "splits": compare_splits(folder, config.spec, executor),
        "tables": table_sizes(folder),
        "audit": audit_rewards(config),
        "files": files,
    }


def code_record(dataset: str) -> dict[str, dict[str, str]]:
    """`code`: which code defines a dataset; nothing for one that is built in, whose code is that version of r1vlm."""
    return {"code": CODE[dataset].as_json()} if dataset in CODE else {}


def code_mismatches(manifest: Mapping[str, Any]) -> list[str]:
    """What to say of the code here where it is not the one that a manifest names; empty where it is."""
    name, recorded = manifest["recipe"]["dataset"], manifest.get("code") or {}
    here = CODE[name].as_json() if name in CODE else {}
    if recorded.get("sha256") == here.get("sha256"):
        return []
    was = recorded.get("sha256", "that of r1vlm")[:12]
    return [f"{owner_of(name)} has SHA-256 {here['sha256'][:12]}, not {was}"] if here else []


def audit_rewards(config: DatasetConfig, images: int = 12) -> dict[str, Any]:
    """The reward attacks on each task's questions about the first images of the train split, in short.

    Raises:
        UserError: where the code of the dataset raises; it names the line.
    """
    questions = sample_questions(config, images)
    tasks = [task for task in config.spec.tasks if questions[task.name]]
    with errors_explained(config.dataset):
        return {task.name: summary(audit(task, questions[task.name])) for task in tasks}


def write_manifest(folder: Path, config: DatasetConfig, executor: Executor = map) -> None:
    """Write the manifest, and the card that is filled from it.

    Raises:
        RuntimeError: where two splits share what they must not, or a reward gave way. That is a mistake of ours; it is
            a `UserError` where the dataset is not built in.
    """
    for path, picture in example_files(config).items():
        write_bytes(folder / path, picture)
    manifest = make_manifest(folder, config, hash_files(folder, executor), executor)
    shared, audited = manifest["splits"]["shared_between_splits"], manifest["audit"]
    if any(shared.values()) or any(of_task["broke"] for of_task in audited.values()):
        if config.dataset in CODE:
            raise UserError(
                f"{CODE[config.dataset]}: the splits share something, or a reward gave way to an attack: look with  "
                f"r1vlm-data check {config.dataset}"
            )
        raise RuntimeError(f"splits share {shared}; attacks on the rewards: {audited}")
    write_card(folder, manifest)
    write_json(folder / MANIFEST, manifest)


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the card of a dataset folder."""
    write_text(folder / CARD, make_card(manifest))


def make_card(manifest: Mapping[str, Any]) -> str:
    """The dataset card, filled from a manifest."""
    recipe = manifest["recipe"]
    config = DatasetConfig(**{name: value for name, value in recipe.items() if name != "version"})
    return dataset_card(config.spec, manifest, [(example_path(one), one) for one in card_questions(config)])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder.

    Raises:
        UserError: where there is no such folder, or it has no manifest that can be read.
    """
    if not folder.exists():
        raise UserError(f"there is no dataset {folder}: build one with  r1vlm-data build digits --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is not a dataset folder (no {MANIFEST} in it): name what r1vlm-data build wrote")
    manifest = read_object(folder / MANIFEST, ADVICE)
    check_shape(manifest, Manifest, f"{folder / MANIFEST} is damaged", ADVICE)
    return manifest


def find_built_dataset(folder: Path, manifest: Mapping[str, Any]) -> DatasetSpec:
    """The definition of the dataset in a folder. What the manifest says of its code is told, and never run.

    Raises:
        UserError: where it is not here, or can't be loaded.
    """
    name, code = manifest["recipe"]["dataset"], manifest.get("code")
    if name in known_datasets():
        return find_dataset(name)
    if code is None:
        raise UserError(f"{folder} holds the dataset {name!r}, which this version of r1vlm does not know")
    package = f" of the package {code['package']} {code.get('version', '')}" if code.get("package") else ""
    advice = "install that package" if package else "name that file with --task-file"
    raise UserError(
        f"{folder} holds the dataset {name!r}, whose code is not here: its manifest names {code['file']}{package} "
        f"(SHA-256 {code['sha256'][:12]}), so {advice} if you trust it"
    )


def check_files(folder: Path, manifest: Mapping[str, Any], table: str = "") -> None:
    """Raise a `UserError` that names the first file of the manifest (of one table) that is not in the folder."""
    for name in manifest["files"]:
        if name.startswith(table) and not (folder / name).is_file():
            raise UserError(f"{folder} is damaged, {name} is missing: delete the folder and build it again")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; an empty one where there is none, or it is damaged."""
    try:
        return read_object(path, ADVICE)
    except UserError:
        return {}

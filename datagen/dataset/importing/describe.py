"""What an imported folder says of itself, manifest and card, and the check that it is so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.common.files import write_bytes, write_json, write_text
from datagen.common.versions import dataset_versions
from datagen.dataset.executors import Executor
from datagen.dataset.importing.config import SOURCE, ImportConfig
from datagen.dataset.importing.images import hash_pixels
from datagen.dataset.manifest import MANIFEST, compare_splits, example_path, hash_files, table_sizes
from datagen.dataset.reader import check_shard, first_rows
from datagen.dataset.reward_audit import audit, summary
from datagen.dataset.shards import make_questions, read_shard
from datagen.hub.cards import CARD, dataset_metadata, front_matter, render, reward_definitions
from datagen.interaction import decode_image, question_images
from datagen.rendering.png import encode_png
from datagen.schema import arrow_schemas, dataset_columns
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, reward_hash
from datagen.tasks.judges import JUDGES, OWN, sample_rows

SHOWN = 3  # examples on the card
SIDE = 336  # pixels, of the longer side of their pictures at most; of the pictures of several images together
CARRIED = ("recipe", "imported", "versions")  # what can't be made again of the files


def write_description(folder: Path, config: ImportConfig, facts: Mapping[str, Any], executor: Executor = map) -> None:
    """Write the pictures of the card, the manifest and the card of a folder of shards.

    Raises:
        RuntimeError: where two splits share what they must not. That is a mistake of ours.
    """
    for path, picture in example_files(folder).items():
        write_bytes(folder / path, picture)
    recipe = {
        "dataset": config.spec.name,
        "version": config.spec.version,
        "seed": 0,
        "size": 0,  # filled below, from the files
        "shares": list(config.shares),
        "source": SOURCE,
        "options": config.as_json(),
    }
    manifest = make_manifest(folder, recipe, facts, hash_files(folder, executor), executor)
    if any(manifest["splits"]["shared_between_splits"].values()):
        raise RuntimeError(f"splits share {manifest['splits']['shared_between_splits']}")
    manifest["recipe"]["size"] = sum(manifest["splits"]["images"].values())
    write_text(folder / CARD, make_card(folder, manifest))
    write_json(folder / MANIFEST, manifest)


def make_manifest(
    folder: Path,
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
    files: Mapping[str, str],
    executor: Executor = map,
) -> dict[str, Any]:
    """What a folder of imported rows holds, with the proof that its splits are disjoint.

    The rewards are audited on the judge's own questions: in yours, a hostile answer may happen to be right.
    """
    spec, files = OWN[recipe["dataset"]], dict(sorted(files.items()))
    task = spec.tasks[0]
    return {
        "recipe": dict(recipe),
        "imported": dict(facts),
        "fingerprint": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "versions": dataset_versions(),
        "reward_hash": {task.name: reward_hash(task)},
        "splits": compare_splits(folder, spec, executor),
        "tables": table_sizes(folder),
        "audit": {task.name: summary(audit(task, judge_questions(spec)))},
        "files": files,
    }


def judge_questions(spec: DatasetSpec) -> list[dict[str, Any]]:
    """The questions that a judge's rewards are audited on."""
    judge = JUDGES[spec.name.removeprefix("own-").removesuffix("-images")]
    return make_questions(spec, sample_rows(judge))


def example_files(folder: Path) -> dict[str, bytes]:
    """The pictures that the card shows, by their paths in the folder."""
    return {example_path(row): encode_png(_picture(row)) for row in first_rows(folder, SHOWN)}


def _picture(row: Mapping[str, Any]) -> Image.Image:
    """The images of a question, side by side and scaled down."""
    pictures = [decode_image(image) for image in question_images(row)]
    for picture in pictures:
        picture.thumbnail((SIDE // len(pictures), SIDE))
    if len(pictures) == 1:
        return pictures[0]
    line = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)), "white")
    left = 0
    for picture in pictures:
        line.paste(picture, (left, 0))
        left += picture.width
    return line


def make_card(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The card of an imported folder, filled from its manifest and its first questions."""
    spec = OWN[manifest["recipe"]["dataset"]]
    tags = ["r1vlm", "grpo", "reasoning", "rlvr", spec.name]
    metadata = dataset_metadata(spec, manifest)
    metadata |= {"license": manifest["imported"]["license"], "annotations_creators": ["found"], "tags": tags}
    del metadata["language"]
    return render(
        "own-images.md.jinja",
        front=front_matter(metadata),
        spec=spec,
        manifest=manifest,
        examples=[(example_path(row), row) for row in first_rows(folder, SHOWN)],
        columns=dataset_columns(spec),
        rewards=reward_definitions(spec.tasks[0]),
    )


def verify_imported(folder: Path, manifest: Mapping[str, Any]) -> tuple[int, int]:
    """Check an imported folder whose files have the manifest's hashes; returns its numbers of images and of questions.

    Every image is decoded and has the pixels that its row claims, the questions are what the rows of `raw` give, every
    solution earns full marks, and manifest and card are what the files give.

    Raises:
        UserError: naming the first thing that is not so.
    """
    spec = OWN[manifest["recipe"]["dataset"]]
    images, ids = 0, set[str]()
    names = [name for name in manifest["files"] if name.startswith("raw/")]
    for name in tqdm(names, desc="checking", unit="file", disable=None):
        for number in _check_pair(folder / name, folder / name.replace("raw/", "r1/", 1), spec, ids):
            images += number
    again = make_manifest(folder, manifest["recipe"], manifest.get("imported", {}), manifest["files"])
    again |= {key: manifest.get(key) for key in CARRIED}
    for key in sorted(manifest.keys() | again.keys()):
        if manifest.get(key) != again.get(key):
            raise UserError(
                f"{folder / MANIFEST}: {key} is not what the files give: it was edited, or r1vlm has changed"
            )
    if shared := {name: count for name, count in again["splits"]["shared_between_splits"].items() if count}:
        raise UserError(f"{folder} has splits that share {shared}: do not use it")
    if manifest["recipe"]["size"] != images or set(again["splits"]["images"]) != set(SPLITS):
        raise UserError(f"{folder / MANIFEST}: its recipe names another number of images than the files hold")
    for path, picture in example_files(folder).items():
        if not (folder / path).is_file() or (folder / path).read_bytes() != picture:
            raise UserError(f"{folder / path} is not what the files give: import again")
    card = folder / CARD
    if not card.is_file() or card.read_text(encoding="utf-8") != make_card(folder, manifest):
        raise UserError(f"{card} is not the card of this manifest: it was edited, or r1vlm has changed since")
    return images, len(ids)


def _check_pair(raw: Path, r1: Path, spec: DatasetSpec, ids: set[str]) -> Iterator[int]:
    """Check a file of each table; gives the number of images of each row."""
    schemas = arrow_schemas(spec)
    check_shard(r1, spec, ids)
    rows, questions = read_shard(raw, schemas["raw"]), read_shard(r1, schemas["r1"])
    if make_questions(spec, rows) != questions:
        raise UserError(f"{r1} does not hold the questions of {raw}: import again")
    for row in rows:
        images = question_images(row)
        pixels = [hash_pixels(decode_image(image)).hex() for image in images]
        if pixels != (row["pixels"] if spec.several_images else [row["pixels"]]):
            raise UserError(f"{raw}: the image of {row['id']} has other pixels than its row claims: import again")
        yield len(images)

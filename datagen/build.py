"""Building a dataset folder: shards drawn by worker processes, proofs, manifest and card.

The folder is drawn beside its place, in `NAME.partial`, and takes its place when it is complete. A shard is written
under a temporary name and renamed, so a build that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datagen import r1
from datagen.attacks import audit, summary
from datagen.canvas import png
from datagen.cards import render
from datagen.errors import UserError, nearest
from datagen.files import replacing, sha256, write_json, write_text
from datagen.randomness import stream
from datagen.sources import SPLITS, load_source
from datagen.task import DatasetSpec, Task, reward_hash
from datagen.tasks import DATASETS, find_dataset

SHARD = 1000  # images in a shard: a few megabytes, and a second or two of one worker's time
MANIFEST = "manifest.json"
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Recipe:
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


def make_recipe(
    name: str,
    *,
    size: int,
    seed: int,
    shares: tuple[int, int, int] = (80, 10, 10),
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """A checked recipe; the dataset's first source and the defaults of its options, unless they are given.

    Raises:
        UserError: for an unknown dataset, source or option, or a size that leaves a split empty.
    """
    options = options or {}
    spec = find_dataset(name)
    known = {option.name: option.default for option in spec.options}
    for option in options.keys() - known.keys():
        raise UserError(f"{name} has no option {option!r}: {nearest(option, list(known))}")
    if source is not None and source not in spec.sources:
        raise UserError(f"{name} is not drawn from {source}: take --source {' or '.join(spec.sources)}")
    recipe = Recipe(spec.name, spec.version, seed, size, shares, source or spec.sources[0], {**known, **options})
    if sum(shares) != 100 or min(shares) < 1:
        raise UserError(f"--splits {'/'.join(map(str, shares))} must be three whole percentages that add up to 100")
    if min(recipe.counts().values()) < 1:
        raise UserError(f"--size {size} leaves a split without an image: take at least {-(-100 // min(shares))}")
    return recipe


def plan(recipe: Recipe) -> list[Shard]:
    """The shards of a recipe, in order."""
    shards = []
    for split, count in recipe.counts().items():
        starts = range(0, count, SHARD)
        shards += [Shard(split, i, len(starts), at, min(at + SHARD, count)) for i, at in enumerate(starts)]
    return shards


def raw_row(spec: DatasetSpec, recipe: Recipe, split: str, index: int) -> dict[str, Any]:
    """One image and its ground truth: a row of the `raw` config."""
    material = material_of(recipe.source, split)
    drawing = spec.draw(stream(spec.name, spec.version, recipe.seed, split, index), material, recipe.options)
    image = {"bytes": png(drawing.image), "path": None}
    return {"id": f"{spec.name}-{recipe.seed}-{split}-{index:07d}", "image": image, **drawing.truth}


def r1_row(spec: DatasetSpec, task: Task, raw: Mapping[str, Any]) -> dict[str, Any]:
    """One question about an image: a row of the `r1` config."""
    answer = task.answer(raw)
    return {
        "id": f"{raw['id']}-{task.name}",
        "image_id": raw["id"],
        "task": task.name,
        "prompt": r1.messages(task.ask(raw), task.example_answer),
        "image": raw["image"],
        "answer": answer,
        "solution": r1.solution(task.solve(raw), answer),
        **{column: raw[column] for column in spec.r1_columns},
    }


def questions_of(spec: DatasetSpec, raw: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All questions about some images: rows of the `r1` config, in order."""
    return [r1_row(spec, task, row) for row in raw for task in spec.tasks if task.asked(row)]


def schemas(spec: DatasetSpec) -> dict[str, pa.Schema]:
    """The Arrow schema of each config, with the metadata by which `datasets` and the Hub's viewer show images."""
    from datasets import Features, Image, List, Value

    def feature(kind: Any) -> Any:
        return List(feature(kind[0])) if isinstance(kind, list) else Value(kind)

    columns = {name: feature(kind) for name, kind in spec.raw_columns.items()}
    text = Value("string")
    raw = {"id": text, "image": Image(), **columns}
    question = {
        "id": text,
        "image_id": text,
        "task": text,
        "prompt": List({"role": text, "content": text}),
        "image": Image(),
        "answer": text,
        "solution": text,
        **{name: columns[name] for name in spec.r1_columns},
    }
    return {"raw": Features(raw).arrow_schema, "r1": Features(question).arrow_schema}


@cache
def material_of(source: str, split: str) -> Any:
    """What a split may be drawn from; kept, since a worker draws many shards of few splits."""
    return load_source(source).of_split(split)


def draw_shard(folder: Path, recipe: Recipe, shard: Shard, schema: Mapping[str, pa.Schema]) -> int:
    """Draw a shard and write its two files; returns its number of images."""
    spec = DATASETS[recipe.dataset]
    raw = [raw_row(spec, recipe, shard.split, index) for index in range(shard.start, shard.stop)]
    for config, values in (("raw", raw), ("r1", questions_of(spec, raw))):
        with replacing(folder / shard.path(config)) as temporary:
            pq.write_table(pa.Table.from_pylist(values, schema[config]), temporary)
    return shard.stop - shard.start


def build(recipe: Recipe, out: Path, workers: int) -> bool:
    """Write the dataset folder `out`; returns False where it was there already, made by the same recipe.

    Raises:
        UserError: where `out` holds something else, another build is writing it, or a worker was killed.
    """
    if _is_built(out, recipe):
        return False
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not partial.is_dir():
        raise UserError(f"{partial} is in the way: delete it, or name another folder with --out")
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        _claim(partial, recipe)
        for rest in partial.rglob("*.tmp"):  # of a worker that was killed
            rest.unlink()
        load_source(recipe.source)  # a source that must be downloaded is downloaded once, and not by every worker
        _draw_missing(partial, recipe, workers)
        write_manifest(partial, recipe)
        (partial / ".lock").unlink()
        os.rename(partial, out)
    (out / RECIPE).unlink()
    return True


def _is_built(out: Path, recipe: Recipe) -> bool:
    if not out.exists() or not any(out.iterdir()):
        return False
    if _read_json(out / MANIFEST).get("recipe") == _as_json(recipe):
        check_files(out, _read_json(out / MANIFEST))
        (out / RECIPE).unlink(missing_ok=True)  # of a build that was killed in its last moment
        return True
    raise UserError(f"{out} already holds something else: name another folder with --out, or delete it")


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise a `UserError` that names the first file of the manifest that is not in the folder."""
    for name in manifest["files"]:
        if not (folder / name).is_file():
            raise UserError(f"{folder} is damaged, {name} is missing: delete the folder and build it again")


def _read_json(path: Path) -> Any:
    """What a JSON file holds; an empty dictionary where there is none, or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _as_json(recipe: Recipe) -> Any:
    return json.loads(json.dumps(asdict(recipe)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is building in {folder}: wait for it, or name another --out") from None
        yield


def _claim(partial: Path, recipe: Recipe) -> None:
    """Note whose shards these are, or find that they belong to another recipe."""
    note = partial / RECIPE
    if not note.exists():
        write_json(note, _as_json(recipe))
    elif _read_json(note) != _as_json(recipe):
        raise UserError(f"{partial} holds an unfinished build of another recipe: delete it, or name another --out")


def _draw_missing(partial: Path, recipe: Recipe, workers: int) -> None:
    schema = schemas(DATASETS[recipe.dataset])
    shards = plan(recipe)
    missing = [s for s in shards if not all((partial / s.path(config)).exists() for config in schema)]
    done = recipe.size - sum(s.stop - s.start for s in missing)
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=recipe.size, initial=done, desc=f"drawing {recipe.dataset}", unit="image") as progress,
        ProcessPoolExecutor(max(1, min(workers, len(missing))), context, initializer=_end_with_parent) as pool,
    ):
        futures = [pool.submit(draw_shard, partial, recipe, shard, schema) for shard in missing]
        try:
            for future in as_completed(futures):
                progress.update(future.result())
        except BrokenProcessPool as error:
            message = "a worker process was killed (too little memory?): run the same command again, it goes on"
            raise UserError(message) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is gone, also when that was killed and could say nothing."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a worker process may call this")
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def prove(folder: Path, spec: DatasetSpec) -> dict[str, Any]:
    """Read the written files back and show that the splits are disjoint.

    Returns, for each split, the number of images, of distinct images, and of distinct values of each column that
    must be disjoint, and the number of values that two splits share (which is 0). Memory is 16 bytes an image.

    Raises:
        RuntimeError: where two splits share an image or such a value. That is a mistake of ours.
    """
    found: dict[str, dict[str, NDArray[np.bytes_]]] = {}
    images: dict[str, int] = {}
    for split in SPLITS:
        parts: dict[str, list[NDArray[np.bytes_]]] = {"images": [], **{column: [] for column in spec.disjoint}}
        images[split] = 0
        for path in sorted((folder / "raw").glob(f"{split}-*.parquet")):
            table = pq.read_table(path, columns=["image", *spec.disjoint])
            pictures = table["image"].combine_chunks().field("bytes")
            parts["images"].append(_digests(picture.as_buffer() for picture in pictures))
            for column in spec.disjoint:
                values = table[column].combine_chunks()
                flat = values.flatten() if pa.types.is_list(values.type) else values
                parts[column].append(_digests(value.encode() for value in flat.unique().to_pylist()))
            images[split] += len(table)
        found[split] = {what: np.unique(np.concatenate(digests)) for what, digests in parts.items()}
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    shared = {
        what: sum(len(np.intersect1d(found[a][what], found[b][what], assume_unique=True)) for a, b in pairs)
        for what in found["train"]
    }
    if any(shared.values()):
        raise RuntimeError(f"splits share {shared}")
    distinct = {split: {what: len(values) for what, values in seen.items()} for split, seen in found.items()}
    return {"images": images, "distinct": distinct, "shared_between_splits": shared}


def _digests(values: Iterable[bytes]) -> NDArray[np.bytes_]:
    """The first 16 bytes of each value's SHA-256."""
    return np.frombuffer(b"".join(hashlib.sha256(value).digest()[:16] for value in values), dtype="S16")


def make_manifest(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What a folder of drawn files holds, with the proof that its splits are disjoint and the audit of its rewards."""
    spec = DATASETS[recipe.dataset]
    paths = sorted(path for config in ("raw", "r1") for path in (folder / config).glob("*.parquet"))
    files = {str(path.relative_to(folder)): sha256(path) for path in paths}
    return {
        "recipe": _as_json(recipe),
        "fingerprint": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "source_sha256": load_source(recipe.source).fingerprint,
        "versions": {name: version(name) for name in ("r1vlm", "numpy", "pillow", "pyarrow", "datasets")},
        "reward_hash": {task.name: reward_hash(task) for task in spec.tasks},
        "splits": prove(folder, spec),
        "audit": audit_of(recipe),
        "files": files,
    }


def audit_of(recipe: Recipe, images: int = 12) -> dict[str, Any]:
    """The reward attacks on each task's questions about the first images of the train split, in short."""
    spec = DATASETS[recipe.dataset]
    raw = [raw_row(spec, recipe, "train", index) for index in range(min(images, recipe.counts()["train"]))]
    asked = questions_of(spec, raw)
    found = {}
    for task in spec.tasks:
        if questions := [question for question in asked if question["task"] == task.name]:
            found[task.name] = summary(audit(task, questions))
    return found


def write_manifest(folder: Path, recipe: Recipe) -> None:
    """Write the manifest, and the card that is filled from it.

    The card's YAML carries the fingerprint of the files because `datasets` 5.2 names its cache of a local folder by the
    folder's last name and that YAML alone: two datasets in folders of one name would be taken for each other.
    """
    spec = DATASETS[recipe.dataset]
    manifest = make_manifest(folder, recipe)
    write_text(folder / "README.md", render("dataset.md.jinja", **manifest, spec=spec, configs=("r1", "raw")))
    write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder.

    Raises:
        UserError: where there is no such folder, or it has no manifest that can be read.
    """
    if not folder.exists():
        raise UserError(f"there is no dataset {folder}: build one with  r1vlm-data build digits --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is not a dataset folder (no {MANIFEST} in it): name what r1vlm-data build wrote")
    manifest: dict[str, Any] = _read_json(folder / MANIFEST)
    if not {"recipe", "fingerprint", "files"} <= manifest.keys():
        raise UserError(f"{folder / MANIFEST} is damaged: build the dataset again")
    return manifest

"""From a recipe to rows: the images and questions of a shard, drawn and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import r1_format
from datagen.common.files import atomic_path
from datagen.dataset.config import DatasetConfig, Shard
from datagen.dataset.rng import example_rng
from datagen.registry import DATASETS
from datagen.rendering.png import encode_png
from datagen.sources.catalog import load_source
from datagen.task import DatasetSpec, Task


def raw_row(spec: DatasetSpec, recipe: DatasetConfig, split: str, index: int) -> dict[str, Any]:
    """One image and its ground truth: a row of the `raw` config."""
    material = load_material(recipe.source, split)
    drawing = spec.draw(example_rng(spec.name, spec.version, recipe.seed, split, index), material, recipe.options)
    image = {"bytes": encode_png(drawing.image), "path": None}
    return {"id": row_id(spec, recipe, split, index), "image": image, **drawing.truth}


def row_id(spec: DatasetSpec, recipe: DatasetConfig, split: str, index: int) -> str:
    """The id of a row of `raw`."""
    return f"{spec.name}-{recipe.seed}-{split}-{index:07d}"


def question_id(raw: Mapping[str, Any], task: Task) -> str:
    """The id of a row of `r1`."""
    return f"{raw['id']}-{task.name}"


def r1_row(spec: DatasetSpec, task: Task, raw: Mapping[str, Any]) -> dict[str, Any]:
    """One question about an image: a row of the `r1` config."""
    answer = task.answer(raw)
    return {
        "id": question_id(raw, task),
        "image_id": raw["id"],
        "task": task.name,
        "prompt": r1_format.make_prompt(task.ask(raw), task.example_answer),
        "image": raw["image"],
        "answer": answer,
        "solution": r1_format.format_solution(task.solve(raw), answer),
        **{column: raw[column] for column in spec.r1_columns},
    }


def make_questions(spec: DatasetSpec, raw: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All questions about some images: rows of the `r1` config, in order."""
    return [r1_row(spec, task, row) for row in raw for task in spec.tasks if task.applies_to(row)]


def sample_questions(recipe: DatasetConfig, images: int) -> dict[str, list[dict[str, Any]]]:
    """The questions about the first images of the train split, by the name of their task."""
    spec = DATASETS[recipe.dataset]
    raw = [raw_row(spec, recipe, "train", index) for index in range(min(images, recipe.counts()["train"]))]
    asked: dict[str, list[dict[str, Any]]] = {task.name: [] for task in spec.tasks}
    for question in make_questions(spec, raw):
        asked[question["task"]].append(question)
    return asked


@cache
def load_material(source: str, split: str) -> Any:
    """What a split may be drawn from; kept, since a worker draws many shards of few splits."""
    return load_source(source).of_split(split)


def draw_shard(folder: Path, recipe: DatasetConfig, schema: Mapping[str, pa.Schema], shard: Shard) -> int:
    """Draw a shard and write its two files; returns its number of images."""
    spec = DATASETS[recipe.dataset]
    raw = [raw_row(spec, recipe, shard.split, index) for index in range(shard.start, shard.stop)]
    for config, values in (("raw", raw), ("r1", make_questions(spec, raw))):
        with atomic_path(folder / shard.path(config)) as temporary, temporary.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(values, schema[config]), file, use_dictionary=False)
    return shard.stop - shard.start

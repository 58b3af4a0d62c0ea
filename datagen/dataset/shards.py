"""From a configuration to rows: the images and questions of a shard, drawn and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.common.files import atomic_path
from datagen.dataset.config import DatasetConfig, Shard
from datagen.dataset.rng import example_rng
from datagen.environment import solution_messages
from datagen.rendering.png import encode_png
from datagen.schema import fits
from datagen.sources.catalog import load_source
from datagen.task import DatasetSpec, DrawnExample, Task

if TYPE_CHECKING:
    from PIL import Image

REASON = 200  # characters of a library's message that are shown


def draw_example(config: DatasetConfig, split: str, index: int) -> DrawnExample:
    """What is drawn for one image of a split.

    Raises:
        UserError: where the dataset is one of images of your own, which are not drawn.
    """
    spec = config.spec
    if spec.draw is None:
        raise UserError(f"{spec.name} is a dataset of images of your own: make it with  r1vlm-data import")
    material = load_material(config.source, split)
    return spec.draw(example_rng(spec.name, spec.version, config.seed, split, index), material, config.options)


def raw_row(config: DatasetConfig, split: str, index: int) -> dict[str, Any]:
    """One image and its ground truth: a row of the table `raw`.

    Raises:
        UserError: as `draw_example`.
    """
    return stored_row(config.spec, row_id(config, split, index), draw_example(config, split, index))


def stored_row(spec: DatasetSpec, raw_id: str, example: DrawnExample) -> dict[str, Any]:
    """What was drawn, as a row of `raw` with an id."""
    truth = {
        name: _stored(value) if spec.raw_columns[name].kind == "image" else value
        for name, value in example.truth.items()
    }
    return {"id": raw_id, "image": _stored(example.image), **truth}


def _stored(image: Image.Image) -> dict[str, Any]:
    return {"bytes": encode_png(image), "path": None}


def row_id(config: DatasetConfig, split: str, index: int) -> str:
    """The id of a row of `raw`."""
    return f"{config.dataset}-{config.seed}-{split}-{index:07d}"


def question_id(raw: Mapping[str, Any], task: Task) -> str:
    """The id of a row of `r1`."""
    return f"{raw['id']}-{task.name}"


def r1_row(spec: DatasetSpec, task: Task, raw: Mapping[str, Any]) -> dict[str, Any]:
    """One question about an image: a row of the table `r1`."""
    *before, solution = solution_messages(task, raw)
    usage = task.interaction.usage if task.interaction else ""
    return {
        "id": question_id(raw, task),
        "image_id": raw.get("image_id", raw["id"]),
        "task": task.name,
        "prompt": r1_format.make_prompt(task.ask(raw), task.example_answer, usage),
        spec.image_column: raw[spec.image_column],
        "answer": task.answer(raw),
        "solution": solution,
        **({"turns": before} if spec.has_turns else {}),
        **{column: raw[column] for column in spec.r1_columns},
    }


def make_questions(spec: DatasetSpec, raw: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All questions about some images: rows of the table `r1`, in order."""
    return [r1_row(spec, task, row) for row in raw for task in spec.tasks if task.applies_to(row)]


def sample_questions(config: DatasetConfig, images: int) -> dict[str, list[dict[str, Any]]]:
    """The questions about the first images of the train split, by the name of their task.

    Raises:
        UserError: where the dataset is one of images of your own, which are not drawn.
    """
    raw = [raw_row(config, "train", index) for index in range(min(images, config.counts()["train"]))]
    questions: dict[str, list[dict[str, Any]]] = {task.name: [] for task in config.spec.tasks}
    for question in make_questions(config.spec, raw):
        questions[question["task"]].append(question)
    return questions


@cache
def load_material(source: str, split: str) -> Any:
    """What a split may be drawn from; kept, since a worker draws many shards of few splits.

    Raises:
        UserError: where there is no such source, or it must be downloaded and can't be.
    """
    return load_source(source).of_split(split)


def draw_shard(folder: Path, config: DatasetConfig, schemas: Mapping[str, pa.Schema], shard: Shard) -> int:
    """Draw a shard and write its two files; returns its number of images.

    Raises:
        UserError: where the dataset is one of images of your own, which are not drawn.
    """
    raw = [raw_row(config, shard.split, index) for index in range(shard.start, shard.stop)]
    for table, rows in (("raw", raw), ("r1", make_questions(config.spec, raw))):
        with atomic_path(folder / shard.path(table)) as temporary, temporary.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(rows, schemas[table]), file, use_dictionary=False)
    return shard.stop - shard.start


def read_shard(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        UserError: where it can't be read, or has other columns than the schema.
    """
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)  # read_table would import pandas
            if not fits(parquet.schema_arrow, schema):
                raise ValueError("it has other columns than its dataset")
            rows: list[dict[str, Any]] = parquet.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # a ValueError for text that is not UTF-8
        raise damaged(path, error) from error
    return rows


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file of a dataset, and why it is so."""
    reason = " ".join(str(error).split())[:REASON].removesuffix(".") or type(error).__name__
    return UserError(f"{path} is damaged ({reason}): build or download it again")

"""The columns of the two tables: their types, what they hold, and how Arrow and the Hub write that down.

Written here, since importing `datasets` for it takes longer than drawing ten thousand images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from datagen.task import Column, DatasetSpec

TABLES = ("r1", "raw")  # `datasets` and the Hub call them configs; the first is the default

RAW = {
    "id": Column("string", "the image's name: dataset, seed, split, number"),
    "image": Column("image", "PNG; RGB as `datasets` decodes it"),
}
R1 = {
    "id": Column("string", "the question's name: that of its image, and the task"),
    "image_id": Column("string", "the row of `raw` that it asks about"),
    "task": Column("string", "which task asks"),
    "prompt": Column([{"role": "string", "content": "string"}], "a system and a user message, in TRL's form"),
    "image": Column("image", "PNG; RGB as `datasets` decodes it"),
    "answer": Column("string", "the right answer, as it is written between the answer tags"),
    "solution": Column("string", "a full assistant message that earns every reward"),
}
IMAGES = Column(["image"], "the images in the order in which they are shown; RGB as `datasets` decodes them")
MOST_IMAGES = 32  # of a question
TURNS = Column(["string"], "the full assistant messages of the trace before `solution`")


def dataset_columns(spec: DatasetSpec) -> dict[str, dict[str, Column]]:
    """The columns of each table by their names, in order."""
    turns = {"turns": TURNS} if spec.has_turns else {}
    return {
        "r1": {**_shown(R1, spec), **turns, **{name: spec.raw_columns[name] for name in spec.r1_columns}},
        "raw": {**_shown(RAW, spec), **spec.raw_columns},
    }


def _shown(columns: Mapping[str, Column], spec: DatasetSpec) -> dict[str, Column]:
    """The columns, with `images` in the place of `image` where a question shows several."""
    if not spec.several_images:
        return {**columns}
    return dict(("images", IMAGES) if name == "image" else (name, column) for name, column in columns.items())


def image_columns(spec: DatasetSpec) -> list[str]:
    """The columns of `r1` that hold images, or lists of them."""
    return [name for name, column in dataset_columns(spec)["r1"].items() if column.kind in ("image", ["image"])]


def arrow_schemas(spec: DatasetSpec) -> dict[str, pa.Schema]:
    """The Arrow schema of each table, with the metadata by which `datasets` and the Hub's viewer show images."""
    return {table: _schema(columns) for table, columns in dataset_columns(spec).items()}


def fits(found: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a file has the columns and the metadata of a schema, also where it was written in format 1."""
    return found.equals(schema) and found.metadata in (schema.metadata, _format_1(schema.metadata))


def _format_1(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The metadata with lists in the notation that `datasets` before version 4 can't read."""
    return {name: json.dumps(_list_types(json.loads(text))).encode() for name, text in metadata.items()}


def _list_types(feature: Any) -> Any:
    if isinstance(feature, list):
        return {"feature": _list_types(feature[0]), "_type": "List"}
    return {name: _list_types(one) for name, one in feature.items()} if isinstance(feature, dict) else feature


def _schema(columns: Mapping[str, Column]) -> pa.Schema:
    types = {name: _arrow(column.kind) for name, column in columns.items()}
    features = {name: feature for name, (_, feature) in types.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, kind) for name, (kind, _) in types.items()], metadata)


def _arrow(kind: Any) -> tuple[pa.DataType, Any]:
    """The Arrow type of a kind of column, and what `datasets` calls it."""
    if isinstance(kind, list):
        inner, feature = _arrow(kind[0])
        return pa.list_(inner), [feature]  # `datasets` reads this notation of a list in every version
    if isinstance(kind, dict):
        fields = {name: _arrow(one) for name, one in kind.items()}
        return pa.struct([(name, inner) for name, (inner, _) in fields.items()]), {n: f for n, (_, f) in fields.items()}
    if kind == "image":  # in files it has a palette, which nobody should have to know
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"mode": "RGB", "_type": "Image"}
    return pa.type_for_alias(kind), {"dtype": kind, "_type": "Value"}


def card_features(columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """The columns as `dataset_info` in a card's YAML has them."""
    return [{"name": name, **_feature(column.kind)} for name, column in columns.items()]


def _feature(kind: Any) -> dict[str, Any]:
    if isinstance(kind, list):
        inner = _feature(kind[0])
        return {"list": inner.get("struct") or inner.get("dtype") or inner}
    if isinstance(kind, dict):
        return {"struct": [{"name": name, **_feature(one)} for name, one in kind.items()]}
    return {"dtype": {"image": {"mode": "RGB"}} if kind == "image" else kind}


def type_name(kind: Any) -> str:
    """A kind of column as a reader has it: `list of int64`."""
    if isinstance(kind, list):
        return f"list of {type_name(kind[0])}"
    return (
        "{" + ", ".join(f"{name}: {type_name(one)}" for name, one in kind.items()) + "}"
        if isinstance(kind, dict)
        else str(kind)
    )

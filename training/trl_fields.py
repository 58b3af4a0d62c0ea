"""The fields of TRL's configuration classes, read from its source.

To import them takes seconds, since TRL loads torch. To refuse a setting takes their names, types and defaults alone.
"""

from __future__ import annotations

import ast
import builtins
import typing
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import NoneType
from typing import Any

from datagen.common.errors import require_extra

BASES = (("transformers", "training_args.py", "TrainingArguments"), ("trl", "trainer/base_config.py", "_BaseConfig"))
CLASSES = {
    "cold_start": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "grpo": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
}


@dataclass(frozen=True)
class TrlField:
    """A field: its type, with None for the classes that only TRL and transformers have, and its default."""

    type: Any
    default: Any
    """None also where it is not written down as a literal."""


@cache
def trl_fields(stage: str) -> dict[str, TrlField]:
    """The fields of the configuration class of a stage, by name; nothing is imported.

    Raises:
        UserError: where TRL or transformers is not installed.
    """
    require_extra("train", "trl", "transformers")
    found: dict[str, ast.AnnAssign] = {}
    for source in (*BASES, CLASSES[stage]):
        found |= {ast.unparse(node.target): node for node in _class_body(*source) if isinstance(node, ast.AnnAssign)}
    names = {node.id for field in found.values() for node in ast.walk(field.annotation) if isinstance(node, ast.Name)}
    known = dict.fromkeys(names, NoneType) | vars(builtins) | vars(typing)
    written = type("Written", (), {"__annotations__": {name: ast.unparse(found[name].annotation) for name in found}})
    types = typing.get_type_hints(written, known)
    return {name: TrlField(types[name], _default(field.value)) for name, field in found.items()}


def _class_body(package: str, path: str, name: str) -> list[ast.stmt]:
    """The statements of a class in a file of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / path).read_text(encoding="utf-8"))
    return next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _default(value: ast.expr | None) -> Any:
    """The default in `field(default=...)`, or behind the equals sign."""
    if isinstance(value, ast.Call):
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError:
        return None

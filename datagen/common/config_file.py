"""Configurations in YAML files, which a command takes in place of its flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from datagen.common.errors import UserError, suggest

Config = TypeVar("Config", bound=BaseModel)


def is_config_file(name: str) -> bool:
    """Whether the name of a command's argument is that of a YAML file."""
    return name.endswith((".yaml", ".yml"))


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked.

    Raises:
        UserError: where the file can't be read, is no YAML, or holds no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no configuration: write one `key: value` a line")
    return values


def validated(config: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """The configuration that has these values; `source` says in an error where they come from.

    Raises:
        UserError: for the first key that is unknown, missing or has a wrong value.
    """
    unknown = [str(key) for key in values if key not in config.model_fields]
    if unknown:
        raise UserError(f"{source} has an unknown key {unknown[0]!r}: {suggest(unknown[0], [*config.model_fields])}")
    try:
        return config(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        raise UserError(f"{source} has no {key!r}: add it")
    message = first["msg"][:1].lower() + first["msg"][1:]
    raise UserError(f"{source} has a wrong {key!r}, {first['input']!r}: {message}")

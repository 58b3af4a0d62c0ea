"""Configurations in YAML files, which a command takes in place of its flags."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from datagen.common.errors import UserError, suggest
from datagen.common.files import open_file
from datagen.common.untrusted import check_value

# What is no text (https://yaml.org/spec/1.2.2/#1032-tag-resolution), and the characters that it may begin with. Merged
# keys are YAML 1.1's, and named here to be refused.
SCALARS = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    "merge": (r"<<", ["<"]),
}
LONGEST = 1 << 18  # characters of a file
Config = TypeVar("Config", bound=BaseModel)


def is_config_file(name: str) -> bool:
    """Whether the name of a command's argument is that of a YAML file."""
    return name.endswith((".yaml", ".yml"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML 1.2 text. PyYAML reads 1.1, in which 1e-7 is a text, `off` is false and 1:30 is 90.

    Raises:
        ValueError: where it is no YAML, has a key twice, or `check_value` refuses it.
    """
    import yaml

    if len(text) > LONGEST:
        raise ValueError(f"it has more than {LONGEST} characters")
    try:
        value = yaml.load(text, _yaml_1_2()[0])  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:  # whose own text quotes the line, which may hold a key
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (RecursionError, OverflowError, TypeError, AttributeError, KeyError) as error:  # of PyYAML's constructors
        raise ValueError("it holds a value that YAML can't have") from error
    check_value(value, ours=False, most=LONGEST)  # the sentence about a setting that is not says which one
    return value


def dump_yaml(value: Any) -> str:
    """A value as one line of YAML, which `parse_yaml` reads back."""
    import yaml

    dumper = _yaml_1_2()[1]
    return yaml.dump(value, Dumper=dumper, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)


@cache
def _yaml_1_2() -> tuple[Any, Any]:
    """PyYAML's safe loader of YAML 1.2, and its dumper, which quotes what either version would not take for a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that comes twice, and merged keys: a few lines of them stand for millions."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [(key.tag, str(key.value)) for key, _ in node.value]
            odd = [key for key in keys if keys.count(key) > 1 or key[0] == "tag:yaml.org,2002:merge"]
            if odd:
                raise yaml.constructor.ConstructorError(
                    None, None, f"it has {odd[0][1]!r} twice, or merged", node.start_mark
                )
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
            text = str(self.construct_scalar(node))
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)

    class Dumper(yaml.SafeDumper):
        """Has a table of rules of its own as soon as one is added."""

    Loader.yaml_implicit_resolvers = {}  # not those of YAML 1.1
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    for kind in (Loader, Dumper):
        for name, (pattern, first) in SCALARS.items():
            kind.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), first)
    return Loader, Dumper


def read_config_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked.

    Raises:
        UserError: where the file can't be read, is no YAML, or holds no mapping.
    """
    try:
        with TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:  # editors of Windows begin it with a mark
            values = parse_yaml(file.read(LONGEST + 1))
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:  # also where it is not UTF-8
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

"""Files of somebody else's: what they hold is a value that is safe to use, or it is refused.

Safe is a value of JSON whose texts can be written, whose numbers are finite, and which is neither deep
nor large: what is done with it can't recurse without end, or overflow. What is printed of it is a `Line` or a `Word`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from datagen.common.errors import UserError
from datagen.common.files import open_file

MOST_BYTES = 1 << 28  # of a JSON file
MOST_VALUES = 100_000_000
LONGEST = 20_000  # characters of a text
DEEPEST = 32  # lists and dictionaries in one another
LARGEST = 2**1000  # a number that can still be computed with
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which JSON and YAML can name and no file can hold
# Controls, separators of lines, and what turns the direction of writing.
PRINTABLE = re.compile("[^\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]*")


def _printable(text: str) -> str:
    if not PRINTABLE.fullmatch(text):
        raise PydanticCustomError("text", "text that can't be printed on a line")
    return text


Shape = TypeVar("Shape", bound=BaseModel)
Line = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_printable)]
"""A text on one line, without controls."""
Digest = Annotated[str, StringConstraints(pattern=re.compile(r"\A[0-9a-f]{64}\Z"))]
"""A SHA-256."""
Word = Annotated[str, StringConstraints(max_length=100, pattern=re.compile(r"\A[\w.+][\w .+-]*\Z", re.ASCII))]
"""The name of a task, a setting or a package, a hash, a version: what a card shows as it is."""


def check_value(value: Any, *, ours: bool = True, most: int = MOST_VALUES) -> None:
    """Raise a `ValueError` where a value of JSON or YAML is not safe to use; it says why.

    Logs and other libraries' files (not `ours`) have numbers that are not finite, and keys twice. `most` is how many
    values it may hold; one that is there several times counts each time.
    """
    pending, seen = [(value, 0)], 0
    while pending:
        one, depth = pending.pop()
        seen += 1
        if seen > most:
            raise ValueError(f"it holds more than {most} values")
        match one:
            case str():
                if len(one) > LONGEST:
                    raise ValueError(f"it holds a text of {len(one)} characters")
                if SURROGATE.search(one):
                    raise ValueError("it holds half of a surrogate pair")
            case int() if not -LARGEST <= one < LARGEST:
                raise ValueError("it holds a number that is too large")
            case float() if ours and not math.isfinite(one):
                raise ValueError(f"it holds {one}, which is no finite number")
            case list() | tuple() | set() | Mapping():
                if depth == DEEPEST:
                    raise ValueError(f"it holds values more than {DEEPEST} deep")
                parts = [*one, *one.values()] if isinstance(one, Mapping) else one
                pending += [(part, depth + 1) for part in parts]
            case _:
                pass


def parse_json(text: str | bytes, *, ours: bool = True) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: where it is none, has a key twice, or `check_value` refuses it.
    """
    twice = False

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        values = dict(pairs)
        twice |= len(values) < len(pairs)
        return values

    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=to_dict)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it holds values too deep to read") from None
    except ValueError:  # also for a number of thousands of digits
        raise ValueError("it is no JSON") from None
    if twice and ours:
        raise ValueError("it has a key twice")
    check_value(value, ours=ours)
    return value


def read_object(path: Path, advice: str, *, ours: bool = True) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: where the file can't be read, or holds none; with the reason, and the advice what to do.
    """
    try:
        with open_file(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        value = parse_json(content, ours=ours)
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror}): {advice}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {advice}") from error
    return value


def check_shape(values: Any, shape: type[Shape], refusal: str, advice: str) -> Shape:
    """The values of a file as the model `shape`.

    Raises:
        UserError: with `refusal`, the first value that has another type, and `advice`.
    """
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")[:80]
    raise UserError(f"{refusal} ({key!r}: {first['msg'][:1].lower()}{first['msg'][1:]}): {advice}")

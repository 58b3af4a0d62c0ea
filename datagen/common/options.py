"""Options of a dataset: what `r1vlm-data build` takes for it, with its default and its check."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """A setting of a dataset: `--name`, its default, how its value is read and checked, and what its help says.

    `parse` takes the text of the command line, and raises a `ValueError` that says what is wrong with it.
    """

    name: str
    default: Any
    parse: Callable[[str], Any]
    metavar: str
    help: str


def as_text(value: Any) -> str:
    """A value as it is given on the command line."""
    return "..".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def integer_range(least: int, most: int) -> Callable[[str], tuple[int, int]]:
    """A parser: `(low, high)` of `LOW..HIGH`, or of one number, from `least` to `most`."""

    def parse(text: str) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?", text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not least <= low <= high <= most:
            raise ValueError(f"{text!r} is not a number from {least} to {most}, or a range such as {least}..{most}")
        return low, high

    return parse


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser: an integer from `least` to `most` (or without an upper end)."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an integer") from None
        if number < least:
            raise ValueError(f"{number} is below {least}, the least there can be")
        if most is not None and number > most:
            raise ValueError(f"{number} is above {most}, the most there can be")
        return number

    return parse


def choice(*names: str) -> Callable[[str], str]:
    """A parser: one of the names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return parse


def integer_choice(*sizes: int) -> Callable[[str], int]:
    """A parser: one of the numbers."""

    def parse(text: str) -> int:
        return int(choice(*map(str, sizes))(text))

    return parse

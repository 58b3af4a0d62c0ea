"""Numbers and texts as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def interval(bounds: Sequence[float]) -> str:
    """An interval of shares, in percent."""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}"


def visible(text: str) -> str:
    """`text` with each character that can't be seen, or that moves others, as its code point.

    Control and format characters (also those that turn the direction of writing), halves of surrogate pairs and
    unassigned code points; line feeds and tabs stay.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\t" or not unicodedata.category(character).startswith("C"):
        return character
    return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{ord(character):04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"

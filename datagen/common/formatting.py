"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def interval(bounds: Sequence[float]) -> str:
    """An interval of shares, in percent."""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}"

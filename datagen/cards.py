"""Filling the Markdown templates of `cards/`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(template: str, **values: Any) -> str:
    """The card of that template. A value that the template wants and is not given raises."""
    from jinja2 import Environment, StrictUndefined

    # Markdown, filled from our own records: nothing to escape
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(files("cards").joinpath(template).read_text(encoding="utf-8")).render(**values)

"""GRPO of a vision-language model on the tasks of `datagen`, from a laptop to several machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import RunConfig
    from training.pipeline import run

__all__ = ["RunConfig", "run"]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562), so that `import training` loads nothing."""
    from importlib import import_module

    rooms = {"RunConfig": "config", "run": "pipeline"}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{rooms[name]}"), name)

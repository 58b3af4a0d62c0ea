"""What a task is: how an example is drawn, how it is asked, what a right answer is.

`datagen.build(datagen.DatasetConfig(dataset="digits"))` does what `r1vlm-data build digits` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datagen.dataset.build import build
    from datagen.dataset.config import DatasetConfig

__all__ = ["DatasetConfig", "build"]


def __getattr__(name: str) -> Any:
    """Load what a dataset takes (numpy, Arrow) where it is needed, and not with the package."""
    if name == "DatasetConfig":
        from datagen.dataset.config import DatasetConfig

        return DatasetConfig
    if name == "build":
        from datagen.dataset.build import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

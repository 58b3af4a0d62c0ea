"""A dataset of one's own: the package to begin with, and what every dataset must keep.

`assert check_dataset(MY_DATASET) == []` is a whole test.
"""

from __future__ import annotations

from datagen.testing.contract import check_dataset
from datagen.testing.new_package import write_package

__all__ = ["check_dataset", "write_package"]

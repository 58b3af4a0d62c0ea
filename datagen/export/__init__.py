"""Datasets as other trainers and evaluators read them, one module a tool.

The module of a tool has `export(built, out)`. It writes into the folder `out`, which is there, and returns the lines
that say what was written and how it is used.
"""

from typing import Literal

Tool = Literal["easyr1", "inspect", "lmms-eval", "ms-swift", "trl", "verifiers", "verl"]

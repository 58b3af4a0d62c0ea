"""Runs a module under FSDP2 on a CPU:  accelerate launch ... -m tests.training.fsdp_on_cpu MODULE ARGUMENTS.

accelerate 1.15 has FSDP for accelerators alone: on a CPU it starts plain DDP in its place, and says nothing. Here
gloo's processes pass for those of GPUs; all else, sharding and checkpoints among it, is torch's and accelerate's own.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any
from unittest.mock import patch

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import distributed


def prepare_backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    distributed.init_process_group("gloo")
    del sys.argv[0]
    with patch.object(PartialState, "_prepare_backend", prepare_backend):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

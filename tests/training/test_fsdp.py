"""Two processes under FSDP2 (gloo, our accelerate file) take the same steps as one on the same batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.training.test_processes import (
    PLAIN,
    SPLIT,
    STEPS,
    check_same_metrics,
    check_same_weights,
    started,
    trained,
)

pytestmark = pytest.mark.slow


def test_a_group_that_is_split_over_the_processes_takes_the_steps_of_trls_path(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    """Each process has half of the one group and half of the weights; a run that is resumed goes on with both."""
    one, two = tmp_path / "1", tmp_path / "2"
    expected = trained(1, one, digits_folder, random_checkpoint, *SPLIT, *PLAIN)
    start = [*started("fsdp2", tmp_path), "tests.training.fsdp_on_cpu"]
    for more in ([], ["--resume"]):
        rows = trained(2, two, digits_folder, random_checkpoint, *SPLIT, *more, start=start)
        check_same_metrics(rows, expected)
        check_same_weights(two, one)
        assert list((two / "final").glob("pytorch_model_fsdp*")), "it was plain DDP"
        (two / "final").unlink()
        shutil.rmtree(two / f"checkpoint-{STEPS}")  # as if it had been killed in its last step

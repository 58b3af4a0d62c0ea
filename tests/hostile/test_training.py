"""What training makes of a damaged dataset, and of what somebody did to its run folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.hostile.damage import DEEP, MANIFEST, TEST, Damage, half, keys, row, text
from tests.processes import invoke, refused

pytestmark = pytest.mark.slow
TRAIN = TEST.replace("test", "train")
STEPS = [
    f"--set={name}" for name in ("max_steps=3", "save_steps=1", "save_total_limit=2", "per_device_train_batch_size=2")
]


def train(out: Path, data: Path, model: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A cold start of three steps, in this process."""
    given = ("--data", data, "--model", model, "--out", out, "--cold-start", "--traces", "6", *STEPS, *words)
    return invoke("training.cli", "digits", *given)


DATASETS: dict[str, tuple[Damage, str]] = {
    "half a Parquet file": (half(TRAIN), "build or download"),
    "an image that is none": (row(TRAIN, image=lambda _: {"bytes": b"x", "path": None}), "cannot identify image"),
    "no answer": (row(TRAIN, answer=None), "has a null"),
    "a deep manifest": (text(MANIFEST, DEEP), "deep"),
    "another hash": (keys(MANIFEST, "files", **{TRAIN: "0" * 64}), "build or download"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_training_refuses_a_damaged_dataset(name: str, few: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    damage, says = DATASETS[name]
    data = Path(shutil.copytree(few / "digits", tmp_path / "data"))
    damage(data)
    assert says in refused(train(tmp_path / "run", data, random_checkpoint))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_from_the_last_whole_checkpoint(few: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", few / "digits"
    assert train(run, data, random_checkpoint).returncode == 0
    for name in ("checkpoint-best", "checkpoint-1.tmp"):
        shutil.copytree(run / "checkpoint-2", run / name)
        os.utime(run / name, (0, 0))
    shutil.rmtree(run / "checkpoint-3")  # the end of `final`
    (run / "checkpoint-3").mkdir()
    shutil.copy(run / "checkpoint-2" / "config.json", run / "checkpoint-3")
    (run / "final").unlink()
    (run / "final").symlink_to("checkpoint-9")
    done = train(run, data, random_checkpoint, "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("checkpoint-best", "checkpoint-1.tmp", "checkpoint-3"):
        assert f"{run / name} is left out" in done.stdout
    assert (run / "final").resolve() == run / "checkpoint-3"
    assert (run / "final" / "model.safetensors").is_file()
    assert {path.name for path in run.glob("checkpoint-*")} == {
        *("checkpoint-2", "checkpoint-3", "checkpoint-best", "checkpoint-1.tmp")
    }
    for damage, says in (
        (text("run.json", DEEP), "deep"),
        (text("run.json", '{"settings": 5}'), "'settings'"),
    ):
        kept = (run / "run.json").read_bytes()
        damage(run)
        assert says in refused(train(run, data, random_checkpoint, "--resume"))
        text("run.json", kept)(run)
    (run / "final").unlink()
    text("trainer_state.json", DEEP)(run / "checkpoint-3")
    assert "trainer_state.json is damaged" in refused(train(run, data, random_checkpoint, "--resume"))
    shutil.rmtree(run / "checkpoint-3")
    (run / "checkpoint-3").touch()
    assert "is a file where a checkpoint is to be saved" in refused(train(run, data, random_checkpoint, "--resume"))

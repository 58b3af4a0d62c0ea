"""What several tests need: a small dataset and a small model, made once a session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests say holds for float32 on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each wait for one another on two cores
settings.register_profile("r1vlm", deadline=None)  # a slow machine is no failure
settings.load_profile("r1vlm")
# Caches of the Hugging Face libraries are ours alone. Set here, since the libraries read it when they are imported.
CACHE = tempfile.TemporaryDirectory(prefix="r1vlm-tests-")
os.environ["HF_HOME"] = CACHE.name
os.environ["R1VLM_CACHE"] = f"{CACHE.name}/r1vlm"


MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Calls a function with a folder that it fills, once for all of xdist's workers: `make_once(name, fill) -> folder`.

    A session fixture alone is made anew by every worker. What is made must not be changed by a test.
    """
    temporary = tmp_path_factory.getbasetemp()
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / f"once-{name}", shared / f"once-{name}.done"
        with FileLock(shared / f"once-{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def digits_folder(make_once: MakeOnce) -> Path:
    """A digits dataset: 160 train, 20 validation and 20 test images, two questions each."""
    from datagen.dataset.build import build
    from datagen.dataset.config import DatasetConfig

    def fill(folder: Path) -> None:
        build(DatasetConfig(dataset="digits", size=200, seed=3), folder / "digits", workers=2)

    return make_once("data", fill) / "digits"


@pytest.fixture(scope="session")
def random_checkpoint(make_once: MakeOnce) -> Path:
    """The small model with random weights, as a checkpoint folder without a record of what made it."""
    import torch

    from training.builtin_models.architecture import make_model, make_processor

    def fill(folder: Path) -> None:
        torch.manual_seed(0)
        processor = make_processor()
        make_model(processor).save_pretrained(folder / "random")
        processor.save_pretrained(folder / "random")

    return make_once("model", fill) / "random"

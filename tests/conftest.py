"""What several tests need: a small dataset and a small model, made once a session."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests say holds for float32 on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "2")
settings.register_profile("r1vlm", deadline=None)  # a slow machine is no failure
settings.load_profile("r1vlm")
# Caches of the Hugging Face libraries are ours alone. Set here, since the libraries read it when they are imported.
CACHE = tempfile.TemporaryDirectory(prefix="r1vlm-tests-")
os.environ["HF_HOME"] = CACHE.name
os.environ["R1VLM_CACHE"] = f"{CACHE.name}/r1vlm"


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits dataset: 160 train, 20 validation and 20 test images, two questions each."""
    from datagen.dataset.build import build
    from datagen.dataset.config import make_config
    from datagen.dataset.executors import process_executor

    out = tmp_path_factory.mktemp("data") / "digits"
    build(make_config("digits", size=200, seed=3), out, process_executor(2))
    return out


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with random weights, as a checkpoint folder without a record of what made it."""
    import torch

    from training.builtin_models.architecture import make_model, make_processor

    folder = tmp_path_factory.mktemp("model") / "random"
    torch.manual_seed(0)
    processor = make_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

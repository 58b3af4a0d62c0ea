"""What several tests need: a small dataset and a small model, made once a session."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests say holds for float32 on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each wait for one another on two cores
os.environ["TRL_EXPERIMENTAL_SILENCE"] = (
    "1"  # modules of ours set it once; a test that puts its environment back undoes it
)
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
def pairs(make_once: MakeOnce) -> Path:
    """A dataset of pictures in which every second question shows two, with solutions: 199 questions."""
    from tests.datagen.own_images import write_pairs

    return make_once("own-pairs", write_pairs) / "pairs"


@dataclass(frozen=True)
class Asked:
    """A batch of `r1vlm-eval`: what transformers' own `generate` would take, what the model was given, what it said.

    `read` are the ids of the prompts (batch, tokens), padded; `images` what it was given for them.
    """

    whole: Any
    read: Any
    images: dict[str, Any]
    said: list[list[int]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """A list that is filled as `r1vlm-eval` runs in this process."""
    from datagen.hub import generation
    from evaluation.backends.transformers import TransformersBackend

    batches: list[Asked] = []
    given: list[tuple[Any, dict[str, Any]]] = []
    generate_ids, sample = TransformersBackend.generate_ids, generation.sample

    @wraps(sample)
    def spy_on_model(model: Any, input_ids: Any, *words: Any, **options: Any) -> Any:
        images = {name: options[name] for name in ("pixel_values", "image_grid_thw")}
        output = sample(model, input_ids, *words, **options)
        given.append((output[:, : input_ids.shape[1] + options["tails"][0].shape[1]], images))
        return output

    def spy(self: Any, prompts: Any) -> list[list[int]]:
        said = generate_ids(self, prompts)
        batches.append(Asked(self.inputs(prompts), *given.pop(), said))
        return said

    monkeypatch.setattr(generation, "sample", spy_on_model)
    monkeypatch.setattr(TransformersBackend, "generate_ids", spy)
    return batches


@pytest.fixture
def stand_in_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An empty package `vllm`, installed for this test."""
    metadata = tmp_path / "site" / "vllm-0.31.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\n")
    (tmp_path / "site" / "vllm.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    module = importlib.import_module("vllm")
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


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


@pytest.fixture(scope="session")
def family(make_once: MakeOnce) -> Callable[[str], Path]:
    """The shrunk model of a recipe, with random weights."""
    from tests.training.architectures import shrunk
    from training.recipes import load_recipe

    def make(recipe: str) -> Path:
        def fill(folder: Path) -> None:
            shrunk(load_recipe(recipe)["model"], folder / "model")

        return make_once(recipe, fill) / "model"

    return make

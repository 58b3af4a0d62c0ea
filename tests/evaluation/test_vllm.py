"""vLLM, in this process and as a server on loopback, answers as transformers does. `make test-vllm` runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.eval import serving
from datagen.common.errors import UserError
from datagen.dataset.reader import open_dataset
from datagen.r1_format import with_opening
from evaluation.backends import transformers as transformers_backend
from evaluation.backends import vllm as vllm_backend
from evaluation.backends.base import Sampling
from evaluation.prompt_variants import R1
from tests.evaluation.conftest import prompt_at
from tests.processes import run

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm installs it"),
    pytest.mark.timeout(900),
]
SMALL = Path(__file__).parents[2] / "training" / "builtin_models" / "base"
COMMON = ("--max-new-tokens", "24", "--limit", "40")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return os.environ | {"R1VLM_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with the opening words in its template, as training leaves it: a server knows no other."""
    folder = shutil.copytree(SMALL, tmp_path_factory.mktemp("model") / "small")
    template = folder / "chat_template.jinja"
    template.write_text(with_opening(template.read_text()))
    return folder


@pytest.fixture(scope="module")
def expected(
    checkpoint: Path, digits_folder: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("transformers")
    words = [checkpoint, "--data", digits_folder, "--engine", "transformers", *COMMON, "--out", out]
    assert run("evaluation.cli", *words, env=env).returncode == 0
    return out


def agree(one: Path, other: Path) -> None:
    """99% of the completions are the same; where they are, so are all rewards."""
    texts = [(folder / "completions.jsonl").read_text().splitlines() for folder in (one, other)]
    same = sum(a == b for a, b in zip(*texts, strict=True)) / len(texts[0])
    assert same >= 0.99
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    if same == 1:
        assert results[0]["rewards"] == results[1]["rewards"]


def test_vllm_in_this_process(
    checkpoint: Path, digits_folder: Path, env: dict[str, str], expected: Path, tmp_path: Path
) -> None:
    words = [checkpoint, "--data", digits_folder, "--engine", "vllm", *COMMON, "--out", tmp_path]
    done = run("evaluation.cli", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["engine"]["vllm"]
    agree(expected, tmp_path)


def test_copies_in_processes_of_their_own_answer_as_one(checkpoint: Path, digits_folder: Path) -> None:
    """On several GPUs each copy sees one of them; here they share the CPU."""
    rows = open_dataset(digits_folder).questions("test")
    prompts = [R1.prompt(rows, place) for place in range(11)]
    copies = vllm_backend.DataParallelVLLM(checkpoint, Sampling(24), [{"OMP_NUM_THREADS": "1"}] * 2)
    found = dict(copies.generate(prompts))
    assert sorted(found) == list(range(11))
    assert dict(copies.generate(prompts[:1])) == {0: found[0]}
    processes = multiprocessing.active_children()
    assert len(processes) == 2
    about = copies.describe()
    del copies
    assert not any(process.is_alive() for process in processes)  # their memory is free for the next model
    alone = vllm_backend.DataParallelVLLM(checkpoint, Sampling(24), [{}])
    assert alone.describe() == about
    assert sum(found[place] == text for place, text in alone.generate(prompts)) >= 10


def test_conversations_with_several_images(checkpoint: Path, zoom_folder: Path) -> None:
    rows = open_dataset(zoom_folder).questions("test")
    prompts = [prompt_at(rows, place, turns) for place in range(5) for turns in range(4)]
    expected = dict(transformers_backend.load(checkpoint, Sampling(24), 8, 4).generate(prompts))
    found = dict(vllm_backend.DataParallelVLLM(checkpoint, Sampling(24), [{}], 4).generate(prompts))
    assert sum(found[place] == text for place, text in expected.items()) >= 19


def test_copies_of_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        vllm_backend.DataParallelVLLM(bare, Sampling(4), [{}, {}])
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[str]:
    """The address of vLLM's own server, with the small model."""
    with serving(str(checkpoint)) as address:
        yield address


def test_vllms_server(server: str, checkpoint: Path, digits_folder: Path, expected: Path, tmp_path: Path) -> None:
    words = [checkpoint, "--endpoint", server, "--data", digits_folder, *COMMON, "--out", tmp_path]
    done = run("evaluation.cli", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["engine"]["name"] == "openai"
    agree(expected, tmp_path)

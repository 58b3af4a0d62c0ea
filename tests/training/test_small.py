"""The small model: the one that is built in reads unseen handwriting, and its maker makes a miniature of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datagen.glyphs import load_glyphs
from datagen.r1 import vision_token_ids
from datagen.sources import SIDE
from tests.processes import refused, run
from training.model import BUILT_IN, load
from training.small.reading import NOTHING, batches, digit_accuracy, distort


def test_the_built_in_model_names_95_percent_of_unseen_digits() -> None:
    from training.small.language import transcription_accuracy

    model, processor = load("small")
    unseen = load_glyphs("mnist-5k").of_split("test")
    assert digit_accuracy(model, processor, unseen, images=512) >= 0.95
    named, exact = transcription_accuracy(model, processor, unseen, images=512)
    assert named >= 0.95
    assert exact >= 0.85
    measured = json.loads((BUILT_IN / "r1vlm.json").read_text())["measured"]
    assert abs(measured["digits_read_aloud"] - named) < 0.02, "the card does not tell what the weights do"


def test_the_built_in_model_is_small_and_safe() -> None:
    files = {path.name: path.stat().st_size for path in BUILT_IN.iterdir()}
    assert sum(files.values()) <= 20_000_000
    assert {"model.safetensors", "config.json", "chat_template.jinja", "README.md", "r1vlm.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_a_miniature_is_made_by_the_same_command(tmp_path: Path) -> None:
    out = tmp_path / "mini"
    words = ("--out", out, "--reading-steps", "3", "--speaking-steps", "2", "--batch", "4")
    done = run("training.small.make", *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in BUILT_IN.iterdir()} == {path.name for path in out.iterdir()}
    assert "--reading-steps 3 --speaking-steps 2 --batch 4 --seed 0" in (out / "README.md").read_text()
    assert not out.with_name("mini.partial").exists()
    model, processor = load(str(out))
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert len(vision_token_ids(processor.tokenizer.get_vocab())) == 5
    assert "is a file" in refused(run("training.small.make", "--out", out / "config.json"))
    assert "there already" in refused(run("training.small.make", "--out", out))


def test_reading_batches_label_the_cells_of_the_digits_centres() -> None:
    images, cells = next(batches(load_glyphs("mnist-5k").of_split("validation"), 64, seed=0, strength=0.0))
    assert images.shape == (64, 84, 84, 3)
    assert images.dtype == torch.uint8
    counts = (cells != NOTHING).sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    grey = images.float().mean(-1)
    ink = (grey.amax((1, 2), keepdim=True) - grey > 60).float()
    per_cell = torch.nn.functional.avg_pool2d(ink, SIDE).flatten(1)
    assert per_cell[cells != NOTHING].mean() > 3 * per_cell[cells == NOTHING].mean()


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_distortion_keeps_shape_and_range_and_none_is_none(strength: float) -> None:
    glyphs = torch.from_numpy(load_glyphs("mnist-5k").pixels[:50]) / 255
    moved = distort(glyphs, torch.Generator().manual_seed(0), strength)
    assert moved.shape == glyphs.shape
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert torch.allclose(moved, glyphs, atol=1e-4) == (strength == 0.0)

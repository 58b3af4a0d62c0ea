"""Features of images that were seen before are looked up: nothing that a model says of them changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from training.models import load_model
from training.rollout.image_features import keep_image_features

pytestmark = pytest.mark.slow


@pytest.fixture
def loaded(random_checkpoint: Path) -> tuple[Any, Any]:
    """A model whose vision tower is frozen, and its processor."""
    return load_model(str(random_checkpoint), {"freeze_vision": True})


def batch_of(processor: Any, *rows: tuple[int, ...]) -> Any:
    """Questions that show images; a number stands for an image, and its size depends on it."""
    sides = {number: 84 if number % 2 else 56 for row in rows for number in row}
    images = [[Image.new("RGB", (sides[one],) * 2, (one * 20, 0, 255 - one * 20)) for one in row] for row in rows]
    texts = ["<|vision_start|><|image_pad|><|vision_end|>" * len(row) + "Look." for row in rows]
    return processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")


def test_a_model_says_the_same_and_gets_the_same_gradient(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    batch = batch_of(processor, (1, 2), (2, 3, 1), (4,), (1, 2))

    def outcome() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = model(**batch).logits
        model.zero_grad()
        logits.log_softmax(-1)[..., 7].sum().backward()
        return logits, [weight.grad for weight in model.parameters() if weight.requires_grad]

    logits, gradient = outcome()
    features = keep_image_features(model)
    assert features is not None
    for _ in range(2):  # nothing is known at first, then all is
        torch.testing.assert_close(outcome(), (logits, gradient), rtol=1e-4, atol=1e-5)
    assert len(features.known) == 4


def test_each_image_is_encoded_once_until_it_is_forgotten(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    encoded = []
    model.model.visual.register_forward_hook(
        lambda _, args, kwargs, output: encoded.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    features = keep_image_features(model)
    assert features is not None
    with torch.no_grad():
        model(**batch_of(processor, (1, 2), (2, 3)))
        model(**batch_of(processor, (3, 4), (1, 1)))
        model(**batch_of(processor, (4, 3)))
        features.forget()
        model(**batch_of(processor, (3, 3)))
    assert encoded == [3, 1, 1]


def test_a_tower_that_is_trained_encodes_every_time(random_checkpoint: Path) -> None:
    model, _ = load_model(str(random_checkpoint), {"freeze_vision": False})
    assert keep_image_features(model) is None
    assert "get_image_features" not in vars(model.model)

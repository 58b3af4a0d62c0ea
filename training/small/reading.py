"""Stage 1 of the small model: the vision tower learns to read, before any language.

Every merged vision token sees 28 x 28 pixels. It learns to name the digit whose centre lies in its cell, or "nothing",
in the language model's own embeddings, so that the language model later finds words where it looks for them.
Trained on distorted glyphs of the `train` split (rotation, scale, shear, stroke), as Simard et al. 2003 did for MNIST.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from datagen.canvas import CANVAS, scatter
from datagen.glyphs import Glyphs
from datagen.sources import SIDE

CELLS = CANVAS // SIDE  # merged tokens along one side of an image
NOTHING = 10  # the class of a cell that holds no digit's centre


def distort(glyphs: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Randomly rotated, scaled, sheared, shifted and thickened glyphs; (n, 28, 28) in [0, 1] to the same."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(len(glyphs)).uniform_(low, high, generator=generator)

    angle, shear = uniform(-0.3, 0.3) * strength, uniform(-0.3, 0.3) * strength
    across, down = 1 + uniform(-0.2, 0.2) * strength, 1 + uniform(-0.2, 0.2) * strength
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([across * cos, across * (shear * cos - sin), uniform(-0.1, 0.1) * strength], dim=1),
            torch.stack([down * sin, down * (shear * sin + cos), uniform(-0.1, 0.1) * strength], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, [len(glyphs), 1, SIDE, SIDE], align_corners=False)
    warped = F.grid_sample(glyphs[:, None], grid, align_corners=False)[:, 0]
    return warped.clamp(0, 1) ** torch.exp(uniform(-0.5, 0.5) * strength)[:, None, None]


def batches(glyphs: Glyphs, size: int, seed: int, strength: float = 1.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless `(images, cells)`: (size, 84, 84, 3) uint8 and (size, 9) classes, one to four digits an image."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    layouts = [scatter(rng, [SIDE] * int(count)) for count in rng.integers(1, 4, size=4000, endpoint=True)]
    pixels, labels = torch.from_numpy(glyphs.pixels) / 255, torch.from_numpy(glyphs.labels)
    while True:
        boxes = [layouts[i] for i in rng.integers(len(layouts), size=size)]
        places = [(image, x, y) for image, corners in enumerate(boxes) for x, y, _, _ in corners]
        chosen = torch.randint(len(glyphs), (len(places),), generator=generator)
        ink = torch.zeros(size, CANVAS, CANVAS, 1)
        cells = torch.full((size, CELLS, CELLS), NOTHING)
        drawn = distort(pixels[chosen], generator, strength)
        for (image, x, y), glyph, label in zip(places, drawn, labels[chosen], strict=True):
            ink[image, y : y + SIDE, x : x + SIDE, 0] = glyph
            cells[image, (y + SIDE // 2) // SIDE, (x + SIDE // 2) // SIDE] = label
        paper = torch.randint(224, 256, (size, 1, 1, 3), generator=generator)
        colour = torch.randint(0, 64, (size, 1, 1, 3), generator=generator)
        yield (paper + (colour - paper) * ink).round().to(torch.uint8), cells.flatten(1)


def cell_logits(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: Tensor) -> Tensor:
    """(images, 9, 11): how much each merged token looks like each digit's embedding, and like nothing's."""
    inputs = processor.image_processor(images=list(images.permute(0, 3, 1, 2)), return_tensors="pt")
    seen = model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    names = [*processor.tokenizer.convert_tokens_to_ids(list("0123456789")), processor.tokenizer.eos_token_id]
    words = model.get_input_embeddings().weight[names]
    logits: Tensor = seen @ words.T / math.sqrt(words.shape[1])
    return logits.view(len(images), CELLS * CELLS, len(names))


@torch.no_grad()
def digit_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, glyphs: Glyphs, images: int = 1024
) -> float:
    """Share of the digits (undistorted glyphs, one to four an image) whose cell is given their name."""
    pictures, cells = next(batches(glyphs, images, seed=1, strength=0.0))
    guesses = cell_logits(model, processor, pictures)[..., :NOTHING].argmax(-1)
    return float((guesses == cells)[cells != NOTHING].float().mean())


def learn_to_read(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    train: Glyphs,
    validation: Glyphs,
    *,
    steps: int,
    seed: int,
    batch: int = 128,
    learning_rate: float = 2e-3,
) -> float:
    """Train the vision tower (and the digits' embeddings) to name digits; returns the accuracy on `validation`."""
    parameters = [*model.model.visual.parameters(), model.get_input_embeddings().weight]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.03)
    accuracy = 0.0
    progress = tqdm(zip(range(1, steps + 1), batches(train, batch, seed), strict=False), total=steps, desc="reading")
    for step, (images, cells) in progress:
        loss = F.cross_entropy(cell_logits(model, processor, images).flatten(0, 1), cells.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps:
            accuracy = digit_accuracy(model, processor, validation)
            progress.set_postfix(loss=f"{loss.item():.3f}", digits=f"{accuracy:.1%}")
    return accuracy

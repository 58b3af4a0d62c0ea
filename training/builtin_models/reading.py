"""The first stages of the small model: the vision tower learns to read, before any language.

Every merged vision token sees a cell of 28 x 28 pixels. It learns to name the digit whose centre lies in its cell, the
letter of a decoder, or "nothing", in the language model's own embeddings, so that the language model later finds words
where it looks for them. A plain letter of a decoder also learns to look like the token by which it is looked up. The
digits are distorted glyphs of the `train` split (rotation, scale, shear, stroke), as Simard et al. 2003 did for MNIST.
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

from datagen.rendering.compositing import CANVAS, random_boxes
from datagen.sources.mnist import SIDE, DigitImages
from datagen.sources.vocabulary import ALPHABETS
from training.builtin_models.architecture import query
from training.builtin_models.cipher_tables import decoders

CELLS = CANVAS // SIDE  # merged tokens along one side of an image of digits
NOTHING = 10  # the class of a cell that holds no digit's centre
NOBODY = "<|im_end|>"  # the token of nothing
LETTERS = "0123456789 " + ALPHABETS[26]  # what a cell may show; a space for nothing
POINTERS = " " + ALPHABETS[26]  # the coded letter whose arrow may point at it
NAMES = [character if character != " " else NOBODY for character in LETTERS]  # their tokens
QUERIES = [query(letter) if letter != " " else NOBODY for letter in POINTERS]


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


def batches(glyphs: DigitImages, size: int, seed: int, strength: float = 1.0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless `(images, cells)`: (size, 84, 84, 3) uint8 and (size, 9) classes, one to four digits an image."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    layouts = [random_boxes(rng, [SIDE] * int(count)) for count in rng.integers(1, 4, size=4000, endpoint=True)]
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


def likeness(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: Tensor, *vocabularies: list[str]
) -> list[Tensor]:
    """For each list of tokens (images, cells, tokens): how much each cell looks like the embedding of each token.

    The images are (n, height, width, 3), all of one size.
    """
    inputs = processor.image_processor(images=list(images.permute(0, 3, 1, 2)), return_tensors="pt")
    seen = model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    seen = seen.view(len(images), -1, seen.shape[-1]) / math.sqrt(seen.shape[-1])
    embeddings, id_of = model.get_input_embeddings().weight, processor.tokenizer.convert_tokens_to_ids
    return [seen @ embeddings[id_of(tokens)].T for tokens in vocabularies]


@torch.no_grad()
def digit_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, glyphs: DigitImages, images: int = 1024
) -> float:
    """Share of the digits (undistorted glyphs, one to four an image) whose cell is given their name."""
    pictures, cells = next(batches(glyphs, images, seed=1, strength=0.0))
    (logits,) = likeness(model, processor, pictures, NAMES[:NOTHING])
    guesses = logits.argmax(-1)
    return float((guesses == cells)[cells != NOTHING].float().mean())


@torch.no_grad()
def letter_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, split: str, images: int = 64
) -> tuple[float, float]:
    """In decoders of 26 letters with keys of the split: `(share of letters named, of plain letters found)`."""
    shown = next(decoders(images, seed=1, split=split, letters=26))
    names, queries = likeness(model, processor, shown.images, NAMES, QUERIES)
    read, bound = places(shown.letters, LETTERS), places(shown.pointers, POINTERS)
    named = (names.argmax(-1) == read)[read != NOTHING]
    return float(named.float().mean()), float((queries.argmax(-1) == bound)[bound != 0].float().mean())


def places(texts: list[str], order: str) -> Tensor:
    """(texts, characters): where each character is in `order`."""
    return torch.tensor([[order.index(character) for character in text] for text in texts])


def learn_to_read(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    train: DigitImages,
    validation: DigitImages,
    *,
    steps: int,
    seed: int,
    batch: int,
    tables: int = 0,
    learning_rate: float = 2e-3,
) -> None:
    """Train the vision tower and the embeddings on `batch` images of digits and `tables` decoders a step."""
    parameters = [*model.model.visual.parameters(), model.get_input_embeddings().weight]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.03)
    drawn, ciphers = batches(train, batch, seed), decoders(max(tables, 1), seed)
    measured: dict[str, str] = {}
    progress = tqdm(range(1, steps + 1), desc="reading")
    for step in progress:
        images, cells = next(drawn)
        losses = [F.cross_entropy(likeness(model, processor, images, NAMES)[0].flatten(0, 1), cells.flatten())]
        if tables:
            shown = next(ciphers)
            names, queries = likeness(model, processor, shown.images, NAMES, QUERIES)
            losses.append(F.cross_entropy(names.flatten(0, 1), places(shown.letters, LETTERS).flatten()))
            losses.append(F.cross_entropy(queries.flatten(0, 1), places(shown.pointers, POINTERS).flatten()))
        torch.autograd.backward(losses)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps:
            measured["digits"] = f"{digit_accuracy(model, processor, validation):.1%}"
            if tables:
                measured["letters"], measured["found"] = map(
                    "{:.1%}".format, letter_accuracy(model, processor, "validation")
                )
        progress.set_postfix({"loss": f"{sum(loss.item() for loss in losses):.3f}", **measured})

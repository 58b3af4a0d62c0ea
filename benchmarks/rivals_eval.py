"""The questions of `benchmarks.rivals`: those of the training's distribution, others, and several samples of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datagen.dataset.rng import example_rng
from evaluation.config import EvalConfig, make_plan
from evaluation.generation import AnswerGenerator, select_questions
from evaluation.metrics.scoring import Scored, sampled
from evaluation.prompt_variants import BLANK, R1, Variant

N = 400  # questions of each set; 200 images
SAMPLED = 100  # questions that are answered several times
SAMPLES = 32
DEVIATION = 55  # of the noise, in shades of 256
SMALLER = 0.7  # of the digits' size

Row = dict[str, Any]


def smaller(rows: Any, index: int) -> Row:
    """The same question with everything in the image drawn smaller, and paper around it."""
    row: Row = rows[index]
    image = row["image"].convert("RGB")
    _, paper = max(image.getcolors(image.width * image.height))
    side = round(SMALLER * image.width)
    around = (image.width - side) // 2
    page = Image.new("RGB", image.size, paper)
    page.paste(image.resize((side, side), Image.Resampling.BILINEAR), (around, around))
    return {**row, "image": page}


def noisy(rows: Any, index: int) -> Row:
    """The same question with normal noise on every pixel and channel, always the same for one image."""
    row: Row = rows[index]
    pixels = np.asarray(row["image"].convert("RGB"), dtype=np.float64)
    noise = example_rng("noise", "1", 0, row["image_id"], 0).normal(0, DEVIATION, pixels.shape)
    return {**row, "image": Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))}


BESIDE = {  # on the questions of the training's distribution
    "test": R1,
    "smaller": Variant("rivals-smaller", "smaller digits", smaller),
    "noisy": Variant("rivals-noisy", "noise", noisy),
    "blank": BLANK,
}


def evaluate(checkpoint: Path, data: Path, longer: Path) -> dict[str, float]:
    """The accuracy of a checkpoint on each set of questions, by the set's name; `pass@K` of the sampled ones.

    `data` is the dataset that it was trained on, `longer` the one with more digits in an image.
    """
    beside = ask(checkpoint, data, BESIDE, N)
    beside["longer"] = ask(checkpoint, longer, {"test": R1}, N)["test"]
    several = sampled(ask(checkpoint, data, {"test": R1}, SAMPLED, SAMPLES)["test"], SAMPLES)["pass_at"]
    found = {name: float(scored.correctness.mean()) for name, scored in beside.items()}
    found["format"] = float(np.mean([rewards["format"] for rewards in beside["test"].rewards]))
    return found | {f"pass@{k}": value for k, value in several.items()}


def ask(checkpoint: Path, data: Path, variants: dict[str, Variant], limit: int, samples: int = 1) -> dict[str, Scored]:
    """The scored answers to the first test questions, in each of some ways; greedy, or so many samples."""
    config = EvalConfig(
        checkpoint=str(checkpoint),
        data=str(data),
        limit=limit,
        samples=samples,
        max_new_tokens=64,
        out=checkpoint.parent / "eval",
    )
    plan = make_plan(config)
    questions, generator = select_questions(plan), AnswerGenerator(plan, plan.model)
    return {name: generator.generate(variant, questions)[1] for name, variant in variants.items()}

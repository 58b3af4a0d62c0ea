"""Where a model looked as it read its answers off the image: pictures for a few questions, without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.reader import recipe_of
from datagen.hub.checkpoint import weight_sizes
from evaluation.attention.forward import attention
from evaluation.attention.heads import HeadChoice, choose_heads, read_texts
from evaluation.backends.base import Sampling, choose_backend
from evaluation.backends.transformers import TransformersBackend, load
from evaluation.config import EvalPlan
from evaluation.generation import Questions
from evaluation.prompt_variants import R1
from evaluation.report.checkpoint_samples import pick_questions
from evaluation.report.results import EvalResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

QUESTIONS, LOOKS = 6, 8  # look-ups of a question
CPU_PARAMETERS = 100_000_000  # at most, without a GPU: a larger model would take minutes
COLOUR, OPACITY = (255, 96, 0), 0.6


@dataclass(frozen=True)
class Strip:
    """The look-ups of the answer at `index`: each text that was read, with the image and the attention on it."""

    index: int
    looks: Sequence[tuple[str, Image]]


@dataclass(frozen=True)
class LookUps:
    """The strips of some questions, and the heads whose attention they show."""

    heads: HeadChoice
    strips: Sequence[Strip]


def find_look_ups(plan: EvalPlan, questions: Questions, result: EvalResult) -> LookUps | None:
    """The look-ups of the model's answers to the first questions of each difficulty.

    None where the dataset does not say what is read off its image, where transformers did not answer, and where it
    would take minutes.
    """
    model, spec = plan.model, plan.dataset.spec
    config = recipe_of(plan.dataset)
    if spec.reads is None or config is None or spec.has_turns or not model.is_model or not _is_cheap(plan, result):
        return None
    try:
        backend = load(model.path, Sampling(1), 1)
        heads = choose_heads(backend, config)
    except UserError as error:  # the results are there: the report does without
        print(f"note: the report shows no look-ups: {error}", flush=True)
        return None
    answers = (i * result.samples for i in pick_questions(questions.examples, spec.difficulty))
    strips = (Strip(answer, list(_looks(backend, heads, plan, result, answer))) for answer in answers)
    return LookUps(heads, list(islice((strip for strip in strips if strip.looks), QUESTIONS)))


def _is_cheap(plan: EvalPlan, result: EvalResult) -> bool:
    if choose_backend(plan.backend, plan.model, len(result.rows)) != "transformers":
        return False
    import torch

    return torch.cuda.is_available() or sum(weight_sizes(plan.model.base or plan.model.path).values()) <= CPU_PARAMETERS


def _looks(
    backend: TransformersBackend, heads: HeadChoice, plan: EvalPlan, result: EvalResult, index: int
) -> Iterator[tuple[str, Image]]:
    """The look-ups of the answer at an index."""
    prompt = R1.prompt(result.rows, index // result.samples)
    text = r1_format.completion_of(result.scored["after"].episodes[index].final)
    reads = read_texts(plan.dataset.spec, text)[:LOOKS]
    if not reads:
        return
    tokens: Any = backend.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    (cells, *_) = attention(backend, prompt, tokens["input_ids"]).maps(heads.heads)
    for match in reads:
        token = next(i for i, (_, end) in enumerate(tokens["offset_mapping"]) if match.start() < end)
        yield match[0], overlay(prompt.shown[0], cells[token])


def overlay(image: Image, cells: NDArray[np.float32]) -> Image:
    """The image with a colour on each cell (rows, columns) that is the stronger the more attention it has."""
    from PIL import Image as Images

    alpha = (255 * OPACITY * cells / max(float(cells.max()), 1e-9)).astype("uint8")
    mask = Images.fromarray(alpha).resize(image.size, Images.Resampling.NEAREST)
    return Images.composite(Images.new("RGB", image.size, COLOUR), image.convert("RGB"), mask)

"""How a question may be asked: as the dataset asks it, or changed to find out what the answers rest on.

`r1` is the dataset's own prompt. `direct` asks for the answer alone, without the opening words: a base model's accuracy
with it shows how much of a gain is more than a format learned. The ablations take the right image away: a model that is
as good without it does not look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.dataset.rng import example_rng
from datagen.registry import find_task
from datagen.task import DatasetSpec
from evaluation.backends.base import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
"""A row of the `r1` config."""

PAPER = (240, 240, 240)  # RGB


@dataclass(frozen=True)
class Variant:
    """A way of asking.

    `transform` gives the row at an index as it is asked. `opening` says whether the opening words are given.
    `changes_truth` says that the transformed row has another right answer, which the model's answer is scored against.
    """

    name: str
    title: str
    transform: Callable[[Dataset, int], Row]
    opening: bool = True
    changes_truth: bool = False

    def prompt(self, rows: Dataset, index: int, sample: int = 0) -> Prompt:
        """What a model gets for the row at `index`, asked for the `sample`-th time."""
        row = self.transform(rows, index)
        return Prompt(f"{row['id']} {sample}", row["prompt"], row["image"].convert("RGB"), self.opening)

    def ground_truths(self, rows: Dataset, examples: list[Row]) -> list[Row]:
        """What each answer is scored against: `examples` (the rows without their images), or the transformed ones."""
        if not self.changes_truth:
            return examples
        transformed = (self.transform(rows, index) for index in range(len(rows)))
        return [{name: value for name, value in row.items() if name != "image"} for row in transformed]

    def full_message(self, example: Mapping[str, Any], completion: str) -> str:
        """The full assistant message of what a model generated.

        A direct answer is put behind the right reasoning, so that the same rewards score the answer alone.
        """
        if self.opening:
            return r1_format.full_message(completion)
        answer = r1_format.extract_answer(completion)
        return r1_format.format_solution(
            find_task(example["task"]).solve(example), completion.strip() if answer is None else answer
        )


def unchanged(rows: Dataset, index: int) -> Row:
    """The row, unchanged."""
    row: Row = rows[index]
    return row


def answer_only(rows: Dataset, index: int) -> Row:
    """The same question, to be answered at once."""
    row: Row = rows[index]
    question, _, _ = row["prompt"][-1]["content"].rpartition("\n")
    example = find_task(row["task"]).example_answer
    text = f"{question}\nReply with the answer alone, without any reasoning, for example: {example}"
    return {**row, "prompt": [{"role": "user", "content": text}]}


def blank_image(rows: Dataset, index: int) -> Row:
    """The same question about an empty page."""
    from PIL import Image

    row: Row = rows[index]
    return {**row, "image": Image.new("RGB", row["image"].size, PAPER)}


def swapped_image(rows: Dataset, index: int) -> Row:
    """The same question about the next image of the dataset."""
    row: Row = rows[index]
    images: Sequence[str] = rows["image_id"]
    others = (images[(index + step) % len(images)] for step in range(1, len(images)))
    step = next((step for step, other in enumerate(others, 1) if other != row["image_id"]), 0)
    return {**row, "image": rows[(index + step) % len(images)]["image"]}


def counterfactual(spec: DatasetSpec, options: Mapping[str, Any]) -> Callable[[Dataset, int], Row]:
    """The same question about the dataset's counterfactual image, with the answer that is right for it."""

    def transform(rows: Dataset, index: int) -> Row:
        row: Row = rows[index]
        if spec.counterfactual is None:
            raise RuntimeError(f"{spec.name} has no counterfactual")
        rng = example_rng(spec.name, spec.version, 0, f"exchange {row['id']}", 0)
        drawn = spec.counterfactual(rng, row, options)
        return {**row, **drawn.truth, "image": drawn.image}

    return transform


R1 = Variant("r1", "as it is asked", unchanged)
DIRECT = Variant("direct", "answering at once", answer_only, opening=False)


def ablation_variants(spec: DatasetSpec, options: Mapping[str, Any]) -> list[Variant]:
    """The ablations of the image that a dataset has; `options` are those it was built with."""
    variants = [
        Variant("blank", "an empty image", blank_image),
        Variant("other", "another example's image", swapped_image),
    ]
    if spec.counterfactual is not None:
        transform = counterfactual(spec, options)
        variants.append(Variant("exchanged", "two letters exchanged in the image", transform, changes_truth=True))
    return variants

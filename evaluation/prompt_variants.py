"""How a question may be asked: as the dataset asks it, or changed to find out what the answers rest on.

`r1` is the dataset's own prompt. `direct` asks for the answer alone, without the opening words: a base model's accuracy
with it shows how much of a gain is more than a format learned. The controls take the right image away: a model that is
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

PAPER = (240, 240, 240)


@dataclass(frozen=True)
class Variant:
    """A way of asking: `change` gives the row as it is asked, `opening` says whether the opening words are given.

    The answer is judged by that row too where the change has another right answer (`other_truth`).
    """

    name: str
    title: str
    change: Callable[[Dataset, int], Row]
    opening: bool = True
    other_truth: bool = False

    def prompt(self, rows: Dataset, place: int, sample: int = 0) -> Prompt:
        """What a model gets for a row, asked for the `sample`-th time."""
        row = self.change(rows, place)
        return Prompt(f"{row['id']} {sample}", row["prompt"], row["image"].convert("RGB"), self.opening)

    def judged(self, rows: Dataset, questions: list[Row]) -> list[Row]:
        """What each answer is judged by: the rows without their images."""
        if not self.other_truth:
            return questions
        changed = (self.change(rows, place) for place in range(len(rows)))
        return [{name: value for name, value in row.items() if name != "image"} for row in changed]

    def message(self, question: Mapping[str, Any], completion: str) -> str:
        """The full assistant message of what a model generated.

        A direct answer is put behind the right reasoning, so that the same reward judges the answer alone.
        """
        if self.opening:
            return r1_format.full_message(completion)
        answer = r1_format.extract_answer(completion)
        return r1_format.format_solution(
            find_task(question["task"]).solve(question), completion.strip() if answer is None else answer
        )


def unchanged(rows: Dataset, place: int) -> Row:
    """The row, unchanged."""
    row: Row = rows[place]
    return row


def answer_only(rows: Dataset, place: int) -> Row:
    """The same question, to be answered at once."""
    row: Row = rows[place]
    question, _, _ = row["prompt"][-1]["content"].rpartition("\n")
    example = find_task(row["task"]).example_answer
    ask = f"{question}\nReply with the answer alone, without any reasoning, for example: {example}"
    return {**row, "prompt": [{"role": "user", "content": ask}]}


def blank_image(rows: Dataset, place: int) -> Row:
    """The same question about an empty page."""
    from PIL import Image

    row: Row = rows[place]
    return {**row, "image": Image.new("RGB", row["image"].size, PAPER)}


def swapped_image(rows: Dataset, place: int) -> Row:
    """The same question about the next image of the dataset."""
    row: Row = rows[place]
    images: Sequence[str] = rows["image_id"]
    others = (images[(place + step) % len(images)] for step in range(1, len(images)))
    step = next((step for step, other in enumerate(others, 1) if other != row["image_id"]), 0)
    return {**row, "image": rows[(place + step) % len(images)]["image"]}


def counterfactual(spec: DatasetSpec, options: Mapping[str, Any]) -> Callable[[Dataset, int], Row]:
    """The same question, with the change in the image that the dataset knows, and the answer that is right then."""

    def change(rows: Dataset, place: int) -> Row:
        row: Row = rows[place]
        if spec.counterfactual is None:
            raise RuntimeError(f"{spec.name} knows no such change")
        drawing = spec.counterfactual(example_rng(spec.name, spec.version, 0, f"exchange {row['id']}", 0), row, options)
        return {**row, **drawing.truth, "image": drawing.image}

    return change


R1 = Variant("r1", "as it is asked", unchanged)
DIRECT = Variant("direct", "answering at once", answer_only, opening=False)


def ablation_variants(spec: DatasetSpec, options: Mapping[str, Any]) -> list[Variant]:
    """The controls that a dataset has."""
    found = [
        Variant("blank", "an empty image", blank_image),
        Variant("other", "another example's image", swapped_image),
    ]
    if spec.counterfactual is not None:
        found.append(
            Variant("exchanged", "two letters exchanged in the image", counterfactual(spec, options), other_truth=True)
        )
    return found

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
from datagen.environment import advance
from datagen.interaction import IMAGE_COLUMNS, Episode, question_images
from datagen.registry import find_task
from datagen.task import DatasetSpec, Task
from evaluation.backends.base import Prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

Row = dict[str, Any]
"""A row of the `r1` config."""

PAPER = (240, 240, 240)  # RGB
SILENCE = Episode()  # before anything was said


@dataclass(frozen=True)
class Variant:
    """A way of asking.

    `transform` gives the row at an index as it is asked. `opening` says whether the opening words are given.
    `changes_truth` says that the transformed row has another right answer, which the model's answer is scored against.
    `first_message` says that an episode ends with the first message, also of a task of several turns. `others_shown`
    says that the transformed row shows images of another row, which depends on the rows that are asked. `drawn_by` is
    the dataset's own function that draws what it shows.
    """

    name: str
    title: str
    transform: Callable[[Dataset, int], Row]
    opening: bool = True
    changes_truth: bool = False
    first_message: bool = False
    others_shown: bool = False
    drawn_by: Callable[..., Any] | None = None

    def prompt(self, rows: Dataset, index: int, sample: int = 0, episode: Episode = SILENCE) -> Prompt:
        """What a model gets for the row at `index`, asked for the `sample`-th time, at this point of an episode."""
        row = self.transform(rows, index)
        turn = f" turn {len(episode.messages)}" if episode.messages else ""
        history = tuple(zip(episode.messages, episode.observations, strict=True))
        name = f"{row['id']} {sample}{turn}"
        shown = [image.convert("RGB") for image in question_images(row)]
        return Prompt(name, row["prompt"], shown, self.opening, history)

    def goes_on(self, episode: Episode, message: str, task: Task, rows: Dataset, index: int) -> bool:
        """Add a full assistant message to an episode about the row at `index`; returns whether another one may follow.

        What comes back is added as well.
        """
        if task.interaction is None or self.first_message:
            episode.messages.append(message)
            return False
        return advance(task, episode, message, self.transform(rows, index)) is not None

    def ground_truths(self, rows: Dataset, examples: list[Row]) -> list[Row]:
        """What each answer is scored against: `examples` (the rows without their images), or the transformed ones."""
        if not self.changes_truth:
            return examples
        transformed = (self.transform(rows, index) for index in range(len(rows)))
        return [{name: value for name, value in row.items() if name not in IMAGE_COLUMNS} for row in transformed]

    def full_message(self, example: Mapping[str, Any], completion: str) -> str:
        """The full assistant message of what a model generated.

        A direct answer is put behind the right reasoning, so that the same rewards score the answer alone. That is read
        from the row's solution: not every task can reason about a row of `r1`, which lacks columns of `raw`.
        """
        if self.opening:
            return r1_format.full_message(completion)
        answer = r1_format.extract_answer(completion)
        reasoning, _ = r1_format.parse(example["solution"]) or ("", "")
        return r1_format.format_solution(reasoning, completion.strip() if answer is None else answer)


def unchanged(rows: Dataset, index: int) -> Row:
    """The row, unchanged."""
    row: Row = rows[index]
    return row


def answer_only(rows: Dataset, index: int) -> Row:
    """The same question, to be answered at once."""
    row: Row = rows[index]
    question = without_usage(row["prompt"][-1]["content"], row).rpartition("\n")[0]
    example = find_task(row["task"]).example_answer
    text = f"{question}\nReply with the answer alone, without any reasoning, for example: {example}"
    return {**row, "prompt": [{"role": "user", "content": text}]}


def without_usage(text: str, row: Mapping[str, Any]) -> str:
    """The text of a prompt without the sentence about the tool, where there is one."""
    interaction = find_task(row["task"]).interaction
    return text.replace(f"{interaction.usage}\n", "") if interaction and interaction.usage else text


def without_tool(rows: Dataset, index: int) -> Row:
    """The same question without a word about the tool."""
    row: Row = rows[index]
    system, user = row["prompt"]
    return {**row, "prompt": [system, {**user, "content": without_usage(user["content"], row)}]}


def images_of(row: Row) -> dict[str, Image | list[Image]]:
    """The images of a row by their columns, of `images` a list: also those that only a tool shows."""
    from PIL.Image import Image

    return {name: value for name, value in row.items() if isinstance(value, Image) or name == "images"}


def blank_image(rows: Dataset, index: int) -> Row:
    """The same question about an empty page, also for a tool."""
    from PIL import Image

    row: Row = rows[index]

    def empty(shown: Any) -> Any:
        return list(map(empty, shown)) if isinstance(shown, list) else Image.new("RGB", shown.size, PAPER)

    return {**row, **{name: empty(shown) for name, shown in images_of(row).items()}}


def swapped_image(rows: Dataset, index: int) -> Row:
    """The same question about the next image (or images) of the dataset, also for a tool."""
    row: Row = rows[index]
    images: Sequence[str] = rows["image_id"]
    others = (images[(index + step) % len(images)] for step in range(1, len(images)))
    step = next((step for step, other in enumerate(others, 1) if other != row["image_id"]), 0)
    return {**row, **images_of(rows[(index + step) % len(images)])}


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
BLANK = Variant("blank", "an empty image", blank_image)
DIRECT = Variant("direct", "answering at once", answer_only, opening=False, first_message=True)


def ablation_variants(spec: DatasetSpec, options: Mapping[str, Any]) -> list[Variant]:
    """The ablations of the image that a dataset has; `options` are those it was built with."""
    variants = [
        BLANK,
        Variant("other", "another example's image", swapped_image, others_shown=True),
    ]
    if spec.has_tool:
        variants.append(Variant("no-tool", "no tool", without_tool, first_message=True))
    if spec.counterfactual is not None:
        transform = counterfactual(spec, options)
        title = f"two {spec.exchanged} exchanged in the image"
        variants.append(Variant("exchanged", title, transform, changes_truth=True, drawn_by=spec.counterfactual))
    return variants

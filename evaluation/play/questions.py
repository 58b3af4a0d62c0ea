"""What is asked on the page: a new example of a dataset, or an image of the user's own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from datagen.dataset.importing.images import BrokenImageError, check_image
from datagen.dataset.reader import BuiltDataset, open_dataset, recipe_of
from datagen.dataset.shards import r1_row, raw_row
from datagen.hub.fetch import parse_repo_id
from datagen.interaction import decode_image, question_images
from datagen.registry import find_dataset_or_task, find_task
from datagen.task import DatasetSpec
from evaluation.backends.base import Prompt
from evaluation.model_source import ModelSource

if TYPE_CHECKING:
    from PIL.Image import Image

SPLIT = "test"  # of which no model has seen a digit, a word or a key
TRIES = 1000  # examples until one is found that a task asks about


@dataclass(frozen=True)
class Question:
    """What is asked about some images. `row` is the row of `r1`, by which answers are judged; None for another's."""

    images: Sequence[Image]
    text: str
    example_answer: str
    row: Mapping[str, Any] | None = None

    def asked(self, text: str) -> Question:
        """The question with the text that the page's user left: another one has no known answer."""
        if text.split() == self.text.split():  # a page changes white space
            return self
        return Question(self.images, text.strip(), self.example_answer)

    @property
    def prompt(self) -> Prompt:
        """What a model gets, before it has said anything."""
        messages = self.row["prompt"] if self.row else r1_format.make_prompt(self.text, self.example_answer)
        return Prompt(self.row["id"] if self.row else "own", messages, self.images, opening=True)


@dataclass(frozen=True)
class QuestionSource:
    """Where questions come from: drawn by a recipe; of a dataset of images of one's own, rows of its test split."""

    spec: DatasetSpec
    config: DatasetConfig | None
    built: BuiltDataset | None

    def question(self, task: str, seed: int) -> Question:
        """A question of a task; another one for each seed.

        Raises:
            UserError: where a dataset has none.
        """
        row = self._stored(task, seed) if self.config is None else self._drawn(self.config, task, seed)
        text = "\n".join(row["prompt"][-1]["content"].split("\n")[:-1])
        images = [decode_image(image) for image in question_images(row)]
        return Question(images, text, find_task(task).example_answer, row)

    def _drawn(self, config: DatasetConfig, name: str, seed: int) -> Mapping[str, Any]:
        drawn, task = config.model_copy(update={"seed": seed}), find_task(name)
        rows = (raw_row(drawn, SPLIT, index) for index in range(TRIES))
        raw = next((row for row in rows if task.applies_to(row)), None)
        if raw is None:
            raise UserError(
                f"the options of {self.spec.name} draw no question of {name}: name another dataset with --data"
            )
        return r1_row(self.spec, task, raw)

    def _stored(self, name: str, seed: int) -> Mapping[str, Any]:
        rows = self.built.questions(SPLIT, [name]) if self.built else []
        if not len(rows):
            raise UserError(f"{self.spec.name} has no {SPLIT} question of {name}: name another dataset with --data")
        row: Mapping[str, Any] = rows[seed % len(rows)]
        return row


def question_source(name: str | None, model: ModelSource) -> QuestionSource:
    """The questions of a dataset folder or of a dataset or task by its name; None: of what the checkpoint was made on.

    Raises:
        UserError: where there is no such dataset, or the checkpoint does not say which is its own.
    """
    recorded, tasks = model.record.get("dataset"), model.record.get("tasks") or [None]
    name = name or (recorded if recorded and (parse_repo_id(recorded) or Path(recorded).is_dir()) else tasks[0])
    if name is None:
        raise UserError(f"{model.name} does not say which dataset it belongs to: name one with --data, such as digits")
    if not parse_repo_id(name) and not Path(name).is_dir():
        spec = find_dataset_or_task(name)
        if spec.draw is None:
            raise UserError(f"{name} has images of your own: name the folder of the dataset with --data")
        return QuestionSource(spec, DatasetConfig(dataset=spec.name, seed=0), None)
    built = open_dataset(name)
    return QuestionSource(built.spec, recipe_of(built), built)


def own_image(content: bytes) -> Image:
    """The image in a file of the user's, upright and RGB.

    Raises:
        UserError: where it can't be decoded, or is too large: as for `r1vlm-data import`.
    """
    from PIL import Image

    try:
        return Image.open(io.BytesIO(check_image(content).content)).convert("RGB")
    except BrokenImageError as error:
        raise UserError(f"this file can't be shown: {error}") from error

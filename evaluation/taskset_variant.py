"""How the questions of somebody else's taskset are asked: message by message as its environment has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.interaction import Episode
from datagen.taskset.play import Turn
from datagen.taskset.questions import Taskset
from evaluation.backends.base import Prompt
from evaluation.model_source import ModelSource
from evaluation.prompt_variants import R1, SILENCE, Variant, unchanged

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class TasksetPrompt(Prompt):
    """A conversation in which texts and images stand in any order; `turns` are all of its messages."""

    turns: Sequence[Turn]

    @property
    def images(self) -> list[Image]:
        """All images, in the order in which they are shown."""
        return [image for turn in self.turns for image in turn.images]

    def conversation(self, image_part: Callable[[Image], dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages as content parts, what the model has said without special tokens."""

        def part(value: str | Image, *, said: bool) -> dict[str, Any]:
            if not isinstance(value, str):
                return image_part(value)
            return {"type": "text", "text": r1_format.without_special_tokens(value) if said else value}

        return [
            {"role": turn.role, "content": [part(value, said=turn.said) for value in turn.parts]} for turn in self.turns
        ]


@dataclass(frozen=True, kw_only=True)
class TasksetVariant(Variant):
    """As the taskset asks. The opening words are given to models that r1vlm has trained, and to no others."""

    taskset: Taskset

    def prompt(self, rows: Dataset, index: int, sample: int = 0, episode: Episode = SILENCE) -> Prompt:
        """What a model gets for the row at `index`, at this point of an episode."""
        turn = f" turn {len(episode.messages)}" if episode.messages else ""
        turns = self.taskset.play(rows["number"][index], episode.messages).turns
        return TasksetPrompt(f"{rows['id'][index]} {sample}{turn}", (), (), self.opening, turns=turns)

    def full_message(self, example: Mapping[str, Any], completion: str) -> str:
        """The full assistant message of what a model generated."""
        return r1_format.full_message(completion) if self.opening else completion


def usual_variant(taskset: Taskset | None, model: ModelSource) -> Variant:
    """The way in which a model is asked what is to be asked: as the taskset does, or (None) as our datasets do."""
    if taskset is None:
        return R1
    opening = bool(model.record)
    name = "as the taskset asks" if opening else "as the taskset asks, without the opening words"
    return TasksetVariant(name, "as it is asked", unchanged, opening, taskset=taskset)

"""Tasks of several turns in TRL's trainer: its environment, its parser of calls, and what an episode looks like to it.

TRL plays an episode with `environment_factory`: a message that calls makes it ask the environment, whose observation
goes into the conversation as a tool's turn, with its images. The tokens of observations are masked out of the loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any
from unittest.mock import patch

from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from datagen.common.errors import UserError
from datagen.environment import Environment, trace_of
from datagen.hub.chat_template import image_placeholder
from datagen.interaction import Episode, Observation, continued, decode_image, observation_parts, question_images
from datagen.r1_format import completion_of, full_message, with_image
from datagen.registry import find_task
from training.rollout.image_features import ImageFeatures, keep_image_features

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `environment_factory` is experimental: TRL's version is pinned
Conversation = list[dict[str, Any]]
GoesOn = Callable[[str], bool]


class ToolEnvironment:
    """An episode as TRL has it: an object for each completion, whose public methods are tools."""

    def reset(self, **row: Any) -> None:
        """Begin an episode about a row of the dataset."""
        self._environment = Environment(find_task(row["task"]))
        self._environment.reset(row)

    def say(self, text: str) -> list[dict[str, Any]]:
        """Take a message that something comes back to.

        Args:
            text: what the model generated
        """
        seen = self._environment.step(full_message(text))
        return observation_parts(seen or Observation(), image_part)


def parse_response(goes_on: GoesOn, tokenizer: Any, ids: Sequence[int], **_: Any) -> dict[str, Any]:
    """In place of TRL's: a call of `say` where something comes back; the text that was sampled is kept as it is."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    message = {"role": "assistant", "content": text}
    if not goes_on(full_message(text)):
        return message
    return message | {"tool_calls": [{"type": "function", "function": {"name": "say", "arguments": {"text": text}}}]}


@contextmanager
def own_parser(tokenizer: Any, goes_on: GoesOn) -> Iterator[None]:
    """Inside, TRL parses completions by `parse_response`; it wants a `response_template` for that, of any kind."""
    with (
        patch.object(grpo_trainer, "parse_response", partial(parse_response, goes_on)),
        patch.object(tokenizer, "response_template", {}, create=True),
    ):
        yield


class MultiTurn(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer: in episodes of several turns `goes_on` says which messages something comes back to.

    Private parts of TRL that it overrides are listed in `training.trl_compat`.
    """

    goes_on: GoesOn
    image_features: ImageFeatures | None = None

    def play_episodes(self, goes_on: GoesOn, model: Any) -> None:
        """Play episodes of several turns from now on; `model` is that of transformers inside wrappers and adapters."""
        self.goes_on = goes_on
        self.image_features = keep_image_features(model)
        self.suffixes: dict[Any, list[int]] = {}

    def _get_tool_suffix_ids(self, tool_messages: list[dict[str, Any]]) -> list[int]:
        """TRL's tokens of what came back, which depend on its text and on the size of its images alone."""
        parts = [part for message in tool_messages for part in message["content"]]
        key = tuple((part["type"], part["image"].size if part["type"] == "image" else part["text"]) for part in parts)
        if key not in self.suffixes:
            self.suffixes[key] = super()._get_tool_suffix_ids(tool_messages)
        return self.suffixes[key]

    def _generate(self, prompts: list[Any]) -> Any:
        if self.environment_factories is None:
            return super()._generate(prompts)
        if self.image_features is not None:
            self.image_features.forget()  # the images of the batch before
        with own_parser(self._tokenizer, self.goes_on):
            return super()._generate(prompts)


def conversation(row: Mapping[str, Any], episode: Episode) -> Conversation:
    """The question about a row and the episode behind it, as chat messages of parts."""
    asked = with_image(row["prompt"], *(image_part(decode_image(image)) for image in question_images(row)))
    return continued(asked, list(zip_longest(episode.messages, episode.observations)), image_part)


def image_part(image: Any) -> dict[str, Any]:
    """The part of a message that is an image."""
    return {"type": "image", "image": image}


def check_episode(row: Mapping[str, Any], processor: Any) -> None:
    """Check that the chat template gives all of an episode to the next turn, as it was sampled; the row's trace is one.

    Raises:
        UserError: where it leaves out an image that came back, or changes or leaves out what was said.
    """
    episode = trace_of(find_task(row["task"]), row)
    talk = conversation(row, episode)
    turns = [{**turn, "role": "tool"} if at > 1 and turn["role"] == "user" else turn for at, turn in enumerate(talk)]
    whole = processor.apply_chat_template(turns, tokenize=False)
    shown, images = whole.count(image_placeholder(processor)), len(images_in(talk))
    if shown != images:
        raise UserError(
            f"the chat template shows {shown} of the {images} images of an episode, so that the model would not see "
            "what comes back: train a model with another template"
        )
    places = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    for place, said in zip(places, episode.messages, strict=True):
        ahead = processor.apply_chat_template(turns[:place], tokenize=False, add_generation_prompt=True)
        if not whole.startswith(ahead + completion_of(said)):
            raise UserError(
                "the chat template changes what was said in earlier turns of an episode, or leaves it out, so that the "
                "model would be trained on another text than it sampled: train a model with another template"
            )


def images_in(talk: Conversation) -> list[Any]:
    """The images of a conversation, in order."""
    return [part["image"] for message in talk for part in message["content"] if part["type"] == "image"]


def longest_trace(rows: Any, processor: Any) -> int:
    """Tokens of the longest trace behind its prompt, with all that comes back in it.

    Measured are the traces with the most characters, one for each number of turns.
    """
    texts = zip(rows["turns"], rows["solution"], strict=True)  # columns: no image is decoded
    sizes = [(len(turns), sum(map(len, [*turns, solution]))) for turns, solution in texts]
    longest = {turns: at for at, (turns, _) in sorted(enumerate(sizes), key=lambda one: one[1])}
    return max(tokens_behind_prompt(rows[at], processor) for at in longest.values())


def tokens_behind_prompt(row: Mapping[str, Any], processor: Any) -> int:
    """Tokens of a row's trace behind its prompt, the end of each turn and observations included."""
    talk = conversation(row, trace_of(find_task(row["task"]), row))
    sizes = []
    for part, ahead in ((talk[:2], True), (talk, False)):
        text = processor.apply_chat_template(part, tokenize=False, add_generation_prompt=ahead)
        sizes.append(len(processor(text=[text], images=[images_in(part)])["input_ids"][0]))
    return sizes[1] - sizes[0]

"""A checkpoint that plays: its messages as they come, what they earn, and where it looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, takewhile
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from datagen.environment import advance
from datagen.interaction import Episode, Observation
from datagen.registry import find_task
from datagen.task import score
from evaluation.attention.forward import attention
from evaluation.attention.heads import HeadChoice, choose_heads
from evaluation.backends import transformers
from evaluation.backends.base import Prompt, Sampling
from evaluation.backends.transformers import TransformersBackend
from evaluation.model_source import ModelSource
from evaluation.play.questions import Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from evaluation.attention.forward import Attention


@dataclass(frozen=True)
class Message:
    """A message behind its opening words: the text of each token, where the model looked, and what came back to it.

    `looked` is None until the message has ended, and where it can't be told.
    """

    tokens: Sequence[str]
    looked: Attention | None = None
    seen: Observation | None = None

    @property
    def text(self) -> str:
        """The whole message."""
        return "".join(self.tokens)


@dataclass(frozen=True)
class Played:
    """An answer so far: `rewards` by name when it is over; None where no right answer is known."""

    question: Question
    messages: Sequence[Message] = ()
    over: bool = False
    rewards: dict[str, float] | None = None

    @property
    def images(self) -> list[Image]:
        """All images of the conversation, in the order in which the model got them."""
        back = [one.seen.image for one in self.messages if one.seen is not None and one.seen.image is not None]
        return [*self.question.images, *back]


@dataclass
class Player:
    """A loaded checkpoint; `heads` are those that look up, or a sentence why where it looks can't be shown."""

    model: ModelSource
    backend: TransformersBackend
    heads: HeadChoice | str

    def play(self, question: Question) -> Iterator[Played]:
        """The answer as it grows, token by token; a task of several turns is played to its end."""
        task = find_task(question.row["task"]) if question.row else None
        episode, prompt, before = Episode(), question.prompt, list[Message]()
        while True:
            ids: list[int] = []
            for ids in generated_ids(self.backend, prompt):
                yield Played(question, [*before, Message([decoded(self.backend, ids)])])
            message = Message(token_texts(self.backend, ids), self._looked(prompt, ids))
            said = r1_format.full_message(message.text)
            seen = advance(task, episode, said, question.row) if task and question.row else None
            before.append(replace(message, seen=seen))
            if seen is None:
                break
            prompt = replace(prompt, history=[*prompt.history, (said, seen)])
            yield Played(question, [*before])
        rewards = score(task, episode, question.row) if task and question.row else None
        yield Played(question, before, over=True, rewards=rewards)

    def _looked(self, prompt: Prompt, ids: Sequence[int]) -> Attention | None:
        return None if isinstance(self.heads, str) or not ids else attention(self.backend, prompt, ids)


def load_player(model: ModelSource, config: DatasetConfig | None, turns: int, max_new_tokens: int) -> Player:
    """A checkpoint, ready to play; its heads are chosen on the examples of a recipe.

    Raises:
        UserError: where it can't be loaded.
    """
    backend = transformers.load(model.path, Sampling(max_new_tokens), 1, turns)
    try:
        heads: HeadChoice | str = choose_heads(backend, config)
    except UserError as error:
        heads = str(error)
    return Player(model, backend, heads)


def decoded(backend: TransformersBackend, ids: Sequence[int]) -> str:
    """The text of some tokens, as an evaluation has it."""
    text: str = backend.processor.tokenizer.decode(ids, skip_special_tokens=True)
    return text


def token_texts(backend: TransformersBackend, ids: Sequence[int]) -> list[str]:
    """The part of the text that each token adds; empty for special tokens, and where it completes no character."""
    whole = decoded(backend, ids)
    ends = [_shared(whole, decoded(backend, ids[:end])) for end in range(len(ids))]
    ends = [*accumulate(ends, max), len(whole)]
    return [whole[start:end] for start, end in pairwise(ends)]


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def generated_ids(backend: TransformersBackend, prompt: Prompt) -> Iterator[list[int]]:
    """The tokens generated so far, after each new one; generation stops where nobody asks for more."""
    from transformers import StoppingCriteriaList

    queue: Queue[int | BaseException | None] = Queue()
    left, ids = Event(), list[int]()

    def run() -> None:
        import torch

        try:
            stop: Any = StoppingCriteriaList([lambda tokens, _: torch.full((len(tokens),), left.is_set())])
            with torch.inference_mode():
                backend.model.generate(**backend.inputs([prompt]), streamer=_Streamer(queue), stopping_criteria=stop)
        except BaseException as error:  # raised where the answer is waited for
            queue.put(error)

    Thread(target=run, daemon=True).start()
    try:
        while (token := queue.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            ids.append(token)
            yield ids.copy()
    finally:
        left.set()


class _Streamer:
    """What transformers gives each token to; the prompt comes first."""

    def __init__(self, queue: Queue[int | BaseException | None]) -> None:
        self.queue, self.begun = queue, False

    def put(self, tokens: Any) -> None:
        """Take the prompt, then one token after the other."""
        for token in tokens.reshape(-1).tolist() if self.begun else ():
            self.queue.put(token)
        self.begun = True

    def end(self) -> None:
        """Take note of the end."""
        self.queue.put(None)

"""One episode of somebody else's task: what it asks next behind some messages, and what its rewards are.

The environment's own `run` leads the conversation, with a stand-in for verifiers' agent whose messages are known
already. Where it asks for one more, it is cancelled: the conversation so far is what a model is asked. So an episode
can be played again at any time, without a model, as long as `run` does the same for the same messages.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from datagen.common.errors import UserError
from datagen.dataset.reader import check_image
from datagen.r1_format import OPENING
from datagen.registry.code import Code, explain
from datagen.taskset.package import Package

PREFIX = ";base64,"


@dataclass(frozen=True)
class Turn:
    """One message of a conversation: a text is a `str`, an image is an `Image`, in the order in which they stand.

    `said` tells the messages of the model from all others.
    """

    role: str
    parts: tuple[str | Image.Image, ...]
    said: bool = False

    @property
    def images(self) -> list[Image.Image]:
        """Its images."""
        return [part for part in self.parts if not isinstance(part, str)]

    @property
    def text(self) -> str:
        """Its texts, a line each."""
        return "\n".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Played:
    """An episode so far: all turns, whether it is over, and its rewards where it is."""

    turns: list[Turn]
    over: bool
    rewards: dict[str, Any]


def play(package: Package, task: Any, messages: Sequence[str], most: int) -> Played:
    """The episode in which a model says these full messages, as far as it goes.

    It is over where the environment ends it, and behind `most` messages; then it is judged.

    Raises:
        UserError: where the package raises, or asks for what r1vlm can't show.
    """
    stage = Stage(package, messages, most)
    return _finished(_play(stage, task), package.code)


def _finished(coroutine: Coroutine[Any, Any, Played], code: Code) -> Played:
    """The value of a coroutine, run in a thread: a notebook has a loop of its own in this one."""
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, coroutine).result()
        except UserError:
            raise
        except Exception as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise UserError(f"{code} raises in an episode: {explain(cause, code.path)}") from error


async def _play(stage: Stage, task: Any) -> Played:
    run = asyncio.ensure_future(stage.package.env.run(task, stage))
    waits = asyncio.ensure_future(stage.waits.wait())
    await asyncio.wait((run, waits), return_when=asyncio.FIRST_COMPLETED)
    if not run.done():
        run.cancel()
        await asyncio.wait((run,))
    waits.cancel()
    if not run.cancelled() and (error := run.exception()) is not None:
        raise error
    if stage.trace is None:
        raise UserError(f"{stage.package.code} ends an episode without asking for a message")
    limit = len(stage.messages) >= stage.most
    over = not stage.waits.is_set() or limit
    if over:
        stage.trace.is_completed = True
        stage.trace.stop("max_turns" if stage.waits.is_set() else "user_closed")  # unless it says already
        await stage.task.score(stage.trace)
    rewards = {name: reward for name, reward in stage.trace.rewards.items() if reward is not None}
    return Played(stage.turns, over, rewards)


class Stage:
    """Stands for `vf.Agents` in one episode, and for its only agent. What is said is known: `messages`."""

    def __init__(self, package: Package, messages: Sequence[str], most: int) -> None:
        self.package = package
        self.messages = messages
        self.most = most
        self.waits = asyncio.Event()
        self.turns: list[Turn] = []
        self.trace: Any = None
        self.task: Any = None
        self.said = 0

    def __getattr__(self, name: str) -> Stage:
        """The agent, by the name of its seat."""
        if name != self.package.seat:
            raise AttributeError(f"no agent {name!r}")
        return self

    async def run(self, task: Any, **_: Any) -> Any:
        """One message about a task.

        Raises:
            UserError: where the episode holds a second conversation.
        """
        async with self.interaction(task) as talk:
            await talk.turn()
        self.trace.stop("agent_completed")
        return self.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **_: Any) -> AsyncIterator[Stage]:
        """The conversation about a task, of which there is one in an episode.

        Raises:
            UserError: where the episode holds a second one.
        """
        import verifiers.v1 as vf
        from verifiers.v1.state import state_cls

        if self.trace is not None:
            raise UserError(f"{self.package.code} holds several conversations in an episode, and here it may hold one")
        self.task = task
        about = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        played_by = vf.AgentInfo(config=vf.AgentConfig(runtime=vf.SubprocessConfig()), name=self.package.seat)
        self.trace = vf.Trace(task=about, agent=played_by, state=state_cls(type(task))())
        if task.data.system_prompt is not None:
            self._show(vf.SystemMessage(content=task.data.system_prompt))
        yield self

    async def turn(self, message: Any = None) -> Any:
        """What comes behind a user's message; without one, behind the task's own prompt."""
        import verifiers.v1 as vf
        from verifiers.v1.dialects import parse_message

        prompted = self.said == 0 and self.task.data.prompt is not None
        if (message is None) != prompted:
            raise ValueError("the first turn of a task with a prompt takes no message, and any other takes one")
        limit = self.package.turns
        if limit is not None and self.said >= limit:
            self.trace.stop("max_turns")
            return vf.Segment(messages=[], terminated=True)
        shown = self.task.data.prompt if prompted else message
        for one in [vf.UserMessage(content=shown)] if isinstance(shown, str) else shown:
            self._show(parse_message(one) if isinstance(one, dict) else one)
        if self.said == len(self.messages):
            self.waits.set()
            await asyncio.Future()  # until it is cancelled
        text = self.messages[self.said]
        self.said += 1
        reply = vf.AssistantMessage(**reply_of(text))
        self._add(reply, sampled=True)
        self.turns.append(Turn("assistant", (text,), said=True))
        return vf.Segment(messages=[reply])

    def _show(self, message: Any) -> None:
        content = message.content
        self.turns.append(Turn(message.role, (content,) if isinstance(content, str) else self._parts(content)))
        self._add(message)

    def _parts(self, content: Any) -> tuple[str | Image.Image, ...]:
        if content is None:
            return ("",)
        return tuple(part.text if part.type == "text" else self._image(part.image_url.url) for part in content)

    def _image(self, url: str) -> Image.Image:
        kind, found, data = url.partition(PREFIX)
        if not found or not kind.startswith("data:image/"):
            raise UserError(f"{self.package.code} shows an image by its address, which is not fetched: use a data URL")
        try:
            content = base64.b64decode(data, validate=True)
            check_image(content)
        except (ValueError, OSError, binascii.Error) as error:
            raise UserError(f"{self.package.code} shows an image that can't be read: {error}") from error
        return Image.open(io.BytesIO(content)).convert("RGB")

    def _add(self, message: Any, *, sampled: bool = False) -> None:
        import verifiers.v1 as vf

        parent = len(self.trace.nodes) - 1 if self.trace.nodes else None
        self.trace.nodes.append(vf.MessageNode(parent=parent, message=message, sampled=sampled))


def reply_of(message: str) -> dict[str, str]:
    """A full message as verifiers has it: what stands before `</think>` is the reasoning, the rest the content.

    A message without that tag is content; the opening words are none of it.
    """
    text = message.removeprefix(OPENING)
    thoughts, closed, content = text.partition("</think>")
    if not closed:
        return {"content": text}
    return {"content": content.strip(), "reasoning_content": thoughts.removeprefix("<think>").strip()}

"""Tasks of several turns: what a model says, the calls in it, and what comes back.

What comes back is made by the task's own code from the row: nothing that a model writes is ever taken for it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.r1_format import format_reward

if TYPE_CHECKING:
    from PIL import Image

TOOL_TAGS = ("<tool>", "</tool>")
IMAGE_COLUMNS = ("image", "images")  # of a row of `r1`, which has the first, or the second with a list of them
CALL_CHARACTERS = 200  # of a call at most: a longer one is none
JSON_CALL = re.compile(r"\s*<tool_call>(.*)</tool_call>\s*", re.DOTALL)  # as Qwen's and Hermes' templates ask for it


@dataclass(frozen=True)
class Observation:
    """What comes back to a message: a text, an image, or both. `ok` is False where a call was refused."""

    text: str = ""
    image: Image.Image | None = None
    ok: bool = True


@dataclass
class Episode:
    """The full assistant messages of one conversation, and what came back to each of them but the last."""

    messages: list[str] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)

    @property
    def final(self) -> str:
        """The last message; empty where nothing was said."""
        return self.messages[-1] if self.messages else ""

    @property
    def calls(self) -> list[tuple[str, Observation]]:
        """Each call that was answered, such as `zoom 5`, with what came back."""
        pairs = zip(self.messages, self.observations, strict=False)
        return [(call, seen) for message, seen in pairs if (call := parse_call(message)) is not None]


Respond = Callable[[Episode, Mapping[str, Any]], Observation | None]
"""(episode so far, row of `r1`) -> what comes back to its last message, None where nothing does. Pure and total."""

Tool = Callable[[str, Mapping[str, Any]], Observation]
"""(call, row of `r1`) -> what the tool shows. Pure and total: any call whatever gets an observation."""


@dataclass(frozen=True)
class Interaction:
    """What makes a task one of several turns.

    `turns` are the messages of an episode at most; `goes_on` says of a full message whether anything comes back to it,
    and the episode goes on: to a call, unless it says otherwise. `plan` gives the trace's full messages before the
    last: with them and the task's own solution behind them, an episode earns full marks. `usage` is the sentence of the
    prompt that says what may be asked for; it is empty where there is no tool. `rechecks` says that without a tool each
    message answers the same question again, so that an evaluation counts what was mended and spoiled.
    """

    respond: Respond
    turns: int
    plan: Callable[[Mapping[str, Any]], Sequence[str]]
    usage: str = ""
    goes_on: Callable[[str], bool] = lambda message: parse_call(message) is not None
    rechecks: bool = True


def use_tool(tool: Tool) -> Respond:
    """A `respond` that lets a tool answer each call."""
    return partial(_call_tool, tool)


def _call_tool(tool: Tool, episode: Episode, row: Mapping[str, Any]) -> Observation:
    return tool(parse_call(episode.final) or "", row)


def judge_last(reward: Callable[[Any, Any], float]) -> Callable[[Episode, Mapping[str, Any]], float]:
    """The reward of a task of one turn, for the last message of an episode."""
    return partial(_judge_last, reward)


def _judge_last(reward: Callable[[Any, Any], float], episode: Episode, example: Mapping[str, Any]) -> float:
    return reward(episode.final, example)


def parse_call(message: str) -> str | None:
    """The call that a message makes, such as `zoom 5`; None where it makes none, several, or also answers.

    A call is `<tool>zoom 5</tool>` or `<tool_call>{"name": "zoom", "arguments": {"cell": 5}}</tool_call>`. It follows
    one `<think>...</think>`, with nothing but white space around it, and no answer anywhere.
    """
    if message.count("<think>") != 1 or message.count("</think>") != 1 or "answer>" in message:
        return None
    before, _, rest = message.partition("<think>")
    thinking, closed, said = rest.partition("</think>")
    if not closed or before.removeprefix(r1_format.PREAMBLE).strip() or has_tool_tag(thinking):
        return None
    if len(said) > 2 * CALL_CHARACTERS:
        return None
    if found := JSON_CALL.fullmatch(said):
        return _parse_json_call(found[1])
    call = said.strip()
    if not (call.startswith(TOOL_TAGS[0]) and call.endswith(TOOL_TAGS[1])):
        return None
    call = call.removeprefix(TOOL_TAGS[0]).removesuffix(TOOL_TAGS[1]).strip()
    return call if 0 < len(call) <= CALL_CHARACTERS and "<" not in call and ">" not in call else None


def _parse_json_call(text: str) -> str | None:
    """`zoom 5` of `{"name": "zoom", "arguments": {"cell": 5}}`; the arguments may also be a text that is JSON."""
    from datagen.common.untrusted import parse_json  # with pydantic, which nothing else here needs

    if "<" in text or ">" in text:
        return None
    try:
        call = parse_json(text)
        arguments = call["arguments"]
        arguments = parse_json(arguments) if isinstance(arguments, str) else arguments
        name, values = call["name"], list(arguments.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if call.keys() != {"name", "arguments"} or not isinstance(name, str) or not name.strip():
        return None
    if not all(type(value) in (str, int) for value in values):
        return None
    written = " ".join([name, *map(str, values)])
    return written if len(written) <= CALL_CHARACTERS and "<" not in written and ">" not in written else None


def has_tool_tag(text: str) -> bool:
    """Whether a tag of a call stands in a text: a well-formed answer has none, also not in its thinking."""
    return any(tag in text for tag in (*TOOL_TAGS, "<tool_call>", "</tool_call>"))


def format_call(reasoning: str, call: str) -> str:
    """A full assistant message that makes a call."""
    return f"{r1_format.OPENING}{reasoning}</think>\n{TOOL_TAGS[0]}{call}{TOOL_TAGS[1]}"


def continued(
    asked: Sequence[dict[str, Any]],
    episode: Sequence[tuple[str, Observation | None]],
    image_part: Callable[[Image.Image], dict[str, Any]],
) -> list[dict[str, Any]]:
    """A question's chat messages, of parts, with an episode behind them; `image_part` makes the part of an image.

    `episode` is what was said, each message with what came back, which is a user's turn; None where nothing did.
    """
    talk = list(asked)
    for said, seen in episode:
        talk.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
        if seen is not None:
            talk.append({"role": "user", "content": observation_parts(seen, image_part)})
    return talk


def observation_parts(
    observation: Observation, image_part: Callable[[Image.Image], dict[str, Any]]
) -> list[dict[str, Any]]:
    """An observation as parts of a message: its image, then its text. Never without a part."""
    image = [] if observation.image is None else [image_part(observation.image)]
    text = [{"type": "text", "text": observation.text}] if observation.text or not image else []
    return [*image, *text]


def episode_format(episode: Episode, example: Mapping[str, Any]) -> float:
    """1.0 where every message but the last is a call that was accepted, and the last is a well-formed answer."""
    *before, last = episode.messages or [""]
    accepted = all(map(parse_call, before)) and all(seen.ok for seen in episode.observations)
    return float(accepted and not has_tool_tag(last) and format_reward(last, example) == 1.0)


def image_url_part(image: Image.Image) -> dict[str, Any]:
    """The image as a part of a message in OpenAI's protocol: as PNG inside a URL, so that not a pixel is changed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def question_images(row: Mapping[str, Any]) -> list[Any]:
    """The images that a question shows, in order, as its row has them: decoded, or mappings with their `bytes`."""
    return [row["image"]] if "image" in row else list(row["images"])


def decode_image(value: Any) -> Image.Image:
    """The RGB image of a row's column, which is decoded already or still a mapping with its `bytes`."""
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(value["bytes"])) if isinstance(value, Mapping) else value
    return image.convert("RGB")

"""An answer as HTML, every text escaped: images with the attention of each token, the message, what it earned."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.formatting import percent, visible
from datagen.hub.cards import reward_definitions
from datagen.registry import find_task
from datagen.task import DatasetSpec
from evaluation.attention.heads import HeadChoice, read_texts
from evaluation.play.player import Message, Played, Player
from evaluation.report.html import STAGES, image_url

if TYPE_CHECKING:
    from jinja2 import Template

SHARPEST = 255  # of a byte: the most attention that a token pays to an image token
IMAGE_BYTES = 200_000


def read_file(name: str) -> str:
    """A file beside this one."""
    return files("evaluation.play").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent)
    return environment.from_string(read_file("answer.html.jinja"))


def render(player: Player, played: Played, spec: DatasetSpec, name: str) -> str:
    """The panel of a player; `name` says which of two it is."""
    row = played.question.row
    heads = player.heads if isinstance(player.heads, HeadChoice) else None
    grids = next((one.looked.grids for one in reversed(played.messages) if one.looked), [])
    final = r1_format.full_message(played.messages[-1].text) if played.messages else ""
    return _template().render(
        name=name,
        label=player.model.label,
        stage=STAGES.get(str(player.model.record.get("stage")), ""),
        images=[image_url(image, IMAGE_BYTES) for image in played.images],
        grids=[f"{rows},{columns}" for rows, columns in grids],
        opening=r1_format.OPENING,
        messages=[{"tokens": list(_tokens(message, heads, spec)), "seen": message.seen} for message in played.messages],
        over=played.over,
        answer=r1_format.extract_answer(final),
        right=row["answer"] if row else None,
        rewards=played.rewards,
        definitions=reward_definitions(find_task(row["task"])) if row else {},
        measured=str(player.heads),
    )


def _tokens(message: Message, heads: HeadChoice | None, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    """Of each token with a text that text, whether it is read off the image, and its attention on the images.

    `map` are bytes in base64, one for each image token, of which the highest is 255; `share` is how much of the
    attention is on the images at all, `peak` on the image token with the most.
    """
    mean, end = None, 0
    if message.looked is not None and heads is not None:
        mean = message.looked.mean(heads.heads)
    spans = [match.span() for match in read_texts(spec, message.text)]
    for number, text in enumerate(message.tokens):
        start, end = end, end + len(text)
        if not text:
            continue
        token: dict[str, Any] = {"text": text, "read": any(start < stop and begin < end for begin, stop in spans)}
        if mean is not None:
            weights = mean[number]
            scaled = (SHARPEST * weights / max(weights.max(), 1e-9)).round().astype("uint8")
            token |= {
                "map": base64.b64encode(scaled.tobytes()).decode(),
                "share": float(weights.sum()),
                "peak": float(weights.max()),
            }
        yield token

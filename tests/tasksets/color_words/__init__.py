"""A word of colors in several turns: the contract of verifiers' own environment color_codeword, written anew."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf
from PIL import Image
from verifiers.v1.utils.image import image_data_url

__all__ = ["ColorWordsEnv", "ColorWordsTaskset"]

COLORS = {"red": "A", "green": "B", "blue": "C", "yellow": "D", "black": "E"}
TURNS = 3


class ColorWordsConfig(vf.TasksetConfig):
    squares: int = 2


class ColorWordsData(vf.TaskData):
    word: str
    turns: list[list[str]]


class ColorWordsTask(vf.Task[ColorWordsData, vf.State, vf.TaskConfig]):
    @vf.reward(weight=1.0)
    async def exact(self, trace: vf.Trace) -> float:
        return float(letters(trace) == self.data.word)

    @vf.metric
    async def share(self, trace: vf.Trace) -> float:
        pairs = zip(self.data.word, letters(trace), strict=False)
        return sum(one == other for one, other in pairs) / len(self.data.word)


def letters(trace: vf.Trace) -> str:
    """The last word of capital letters that the model has said."""
    said = trace.assistant_messages
    return (re.findall(r"\b[A-E]+\b", (said[-1].content or "") if said else "") or [""])[-1]


def squares(colors: list[str], text: str) -> vf.UserMessage:
    urls = [image_data_url(Image.new("RGB", (56, 56), color)) for color in colors]
    images: list[Any] = [vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=url)) for url in urls]
    return vf.UserMessage(content=[*images, vf.TextContentPart(text=text)])


class ColorWordsEnv(vf.SingleAgentEnv):
    async def run(self, task: Any, agents: Any) -> None:
        async with agents.agent.interaction(task) as talk:
            segment = await talk.turn()
            for colors in task.data.turns[1:]:
                if segment.terminated:
                    break
                segment = await talk.turn([squares(colors, f"{len(colors)} more. Spell all so far.")])


class ColorWordsTaskset(vf.Taskset[ColorWordsTask, ColorWordsConfig]):
    INFINITE = True

    def load(self) -> Iterator[ColorWordsTask]:
        rng = random.Random(7)
        for index in itertools.count():
            turns = [rng.choices(list(COLORS), k=self.config.squares) for _ in range(TURNS)]
            data = ColorWordsData(
                idx=index,
                prompt=[squares(turns[0], "Here are the first squares.")],
                system_prompt="Spell the colors: red=A, green=B, blue=C, yellow=D, black=E.",
                word="".join(COLORS[color] for colors in turns for color in colors),
                turns=turns,
            )
            yield ColorWordsTask(data, self.config.task)

"""The color of a square: one question, the text before the image, two rewards with weights."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf
from PIL import Image
from verifiers.v1.utils.image import image_data_url

__all__ = ["OneSquareTaskset"]

COLORS = ("red", "green", "blue", "yellow", "black")


class OneSquareData(vf.TaskData):
    color: str


class OneSquareTask(vf.Task[OneSquareData]):
    @vf.reward(weight=3.0)
    async def color(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.lower() == self.data.color)

    @vf.reward
    async def brief(self, trace: vf.Trace) -> float:
        return float(0 < len(trace.last_reply) < 10)


class OneSquareTaskset(vf.Taskset[OneSquareTask, vf.TasksetConfig]):
    def load(self) -> Iterator[OneSquareTask]:
        for number in range(40):
            color = COLORS[number % len(COLORS)]
            url = image_data_url(Image.new("RGB", (56, 56 + number), color))
            shown = [
                vf.TextContentPart(text="Which color is this? One word."),
                vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=url)),
            ]
            yield OneSquareTask(OneSquareData(prompt=[vf.UserMessage(content=shown)], color=color), self.config.task)

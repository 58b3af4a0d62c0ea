"""The questions of `one_square` with the image before the text."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf
from one_square import OneSquareTask, OneSquareTaskset

__all__ = ["SquareFirstTaskset"]


class SquareFirstTaskset(OneSquareTaskset):
    def load(self) -> Iterator[OneSquareTask]:
        for task in super().load():
            (asked,) = task.data.prompt
            yield task.with_data(prompt=[vf.UserMessage(content=asked.content[::-1])])

"""What the files here share that another tool's Python runs: the exported README's command, and texts as tokens."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch


def command(folder: Path, **names: str | Path) -> list[str]:
    """The words of the README's command, with `names` in the places that are in capitals."""
    text = (folder / "README.md").read_text().partition("```sh\n")[2].partition("```")[0].replace("\\\n", "")
    for name, value in names.items():
        text = text.replace(name, str(value))
    return shlex.split(text)


class Bytes:
    """A tokenizer of bytes, so that every text whatever comes to the rewards as it is."""

    def decode(self, ids: torch.Tensor, **_: Any) -> str:
        """The text."""
        return bytes(ids.tolist()).decode("utf-8", "surrogatepass")


def padded(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of a text with one of padding behind them, and where they are no padding: (1, tokens) each."""
    ids = torch.tensor([[*text.encode("utf-8", "surrogatepass"), 0]])
    return ids, torch.tensor([[1] * (ids.shape[1] - 1) + [0]])

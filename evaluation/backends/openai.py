"""A server that speaks OpenAI's chat protocol generates the answers: vLLM's own, or any other."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL.Image import Image

from datagen.common.errors import UserError
from datagen.r1_format import with_image
from evaluation.backends.base import Prompt, Sampling

MAX_ATTEMPTS = 8
MAX_WAIT = 20.0  # seconds between two attempts, unless the server asks for more
MAX_RETRY_AFTER = 60.0  # seconds that a server may ask for
MAX_QUOTED = 300  # characters of a server's response in an error
CONCURRENCY = 32  # requests at the same time, unless --batch-size says otherwise


@dataclass(frozen=True)
class OpenAIBackend:
    """A server at `address` (…/v1) that has a `model`; `concurrency` requests are sent at the same time.

    The token, where the server wants one, is that of `OPENAI_API_KEY`.
    """

    address: str
    model: str
    sampling: Sampling
    concurrency: int

    def _client(self) -> httpx.Client:
        token = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        return httpx.Client(headers=headers, timeout=httpx.Timeout(600, connect=10), limits=limits)

    def describe(self) -> dict[str, str]:
        """Name, address and model."""
        return {"name": "openai", "address": self.address, "model": self.model}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """(index in `prompts`, what was generated), in the order in which the server is done.

        Raises:
            UserError: where the server refuses, stays away, or does not answer in OpenAI's protocol.
        """
        indices = iter(range(len(prompts)))
        running: dict[Future[str], int] = {}
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    for index in islice(indices, self.concurrency - len(running)):
                        running[pool.submit(self._complete, client, prompts[index])] = index
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(done), done.result()
            finally:
                for future in running:
                    future.cancel()

    def _complete(self, client: httpx.Client, prompt: Prompt) -> str:
        *system, question = prompt.messages
        body = {
            "model": self.model,
            # The system message stays plain text: not every server takes parts there.
            "messages": [*system, *with_image([question], image_url_part(prompt.image))],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "seed": prompt.seed,
        }
        answer = self._request(client, "POST", "/chat/completions", body)
        try:
            return message_text(answer["choices"][0]["message"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.public_address} does not answer as OpenAI's protocol has it: check --endpoint"
            ) from error

    def models(self) -> list[str]:
        """The names of the models that the server has.

        Raises:
            UserError: where the server refuses, stays away, or does not list them.
        """
        with self._client() as client:
            answer = self._request(client, "GET", "/models", None)
        try:
            return [str(model["id"]) for model in answer["data"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.public_address} does not list its models: name one as CHECKPOINT") from error

    def _request(self, client: httpx.Client, method: str, path: str, body: Any) -> Any:
        """The JSON of a response. Sent again, after a wait that doubles, where the server is busy or gone.

        Raises:
            UserError: where it refuses, or stays away.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                response = client.request(method, self.address + path, json=body)
            except httpx.TransportError as error:
                problem, min_wait = type(error).__name__, 0.0
            else:
                if response.is_success:
                    return _parse_json(response)
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    reason = printable(response.text[:MAX_QUOTED])
                    raise UserError(f"{self.public_address} refuses (answer {response.status_code}): {reason}")
                problem, min_wait = f"answer {response.status_code}", _retry_after(response)
            if attempt + 1 < MAX_ATTEMPTS:
                backoff = min(MAX_WAIT, 0.25 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 so that not all come back at once
                time.sleep(max(min_wait, backoff))
        raise UserError(f"{self.public_address} does not answer ({problem}): start it, then run the same command again")

    @property
    def public_address(self) -> str:
        """The address without the user and password that it may have."""
        return self.address.rpartition("@")[2]


def message_text(message: Mapping[str, Any]) -> str:
    """What a model generated: the content, a text or a list of text parts, behind the reasoning.

    A server with a reasoning parser (vLLM's `--reasoning-parser`) puts the reasoning into a field of its own, without
    its tags: `reasoning`, or `reasoning_content` in older versions. An answer that was cut off has no closing tag.

    Raises:
        TypeError: for content of another form.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
    if not isinstance(content, str | None) or not isinstance(reasoning, str):
        raise TypeError("content and reasoning are texts")
    return f"{reasoning}</think>{content}" if reasoning and content else reasoning or content or ""


def connect(endpoint: str, model: str, sampling: Sampling, concurrency: int) -> OpenAIBackend:
    """A server that is there, and has the model.

    Raises:
        UserError: where the address is none, nobody answers, or there is no such model.
    """
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
        raise UserError(f"--endpoint {endpoint} is no address: write http://HOST:PORT/v1")
    backend = OpenAIBackend(endpoint.rstrip("/"), model, sampling, concurrency)
    known = backend.models()
    if model not in known:
        some = printable(", ".join(known[:10])[:MAX_QUOTED])
        raise UserError(f"{backend.public_address} has no model {model}: name one of {some}")
    return backend


def image_url_part(image: Image) -> dict[str, Any]:
    """The image as a part of a message: as PNG inside a URL, so that not a pixel is changed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _parse_json(response: httpx.Response) -> Any:
    """What the server answers; None where it is no JSON. Bytes that are no UTF-8 are replaced."""
    try:
        return json.loads(response.text)
    except (ValueError, RecursionError):
        return None


def printable(text: str) -> str:
    """The text on one line and without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _retry_after(response: httpx.Response) -> float:
    """The seconds that the server asks to wait, 0 where it doesn't."""
    try:
        return min(MAX_RETRY_AFTER, float(response.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0

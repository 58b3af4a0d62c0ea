"""Answers of a server that speaks OpenAI's chat protocol: vLLM's own, or any other."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
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

TRIES = 8
LONGEST_WAIT = 20.0  # seconds between two tries
SAID = 300  # characters of what a server says that are shown
AT_ONCE = 32  # questions that are asked at the same time, unless --batch-size says otherwise


@dataclass(frozen=True)
class OpenAIBackend:
    """A server at `address` (…/v1) that has a `model`. Questions are asked `at_once`, and again where that fails.

    The token, where the server wants one, is that of `OPENAI_API_KEY`.
    """

    address: str
    model: str
    sampling: Sampling
    at_once: int

    def _client(self) -> httpx.Client:
        token = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=self.at_once)
        return httpx.Client(headers=headers, timeout=httpx.Timeout(600, connect=10), limits=limits)

    def describe(self) -> dict[str, str]:
        """What generated the answers, for the result file."""
        return {"name": "openai", "address": self.address, "model": self.model}

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """What was generated for each prompt, by its place, in the order in which the server is done."""
        places = iter(range(len(prompts)))
        running: dict[Future[str], int] = {}
        with self._client() as client, ThreadPoolExecutor(self.at_once) as pool:
            try:
                while True:
                    for place in islice(places, self.at_once - len(running)):
                        running[pool.submit(self._ask, client, prompts[place])] = place
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(done), done.result()
            finally:
                for future in running:
                    future.cancel()

    def _ask(self, client: httpx.Client, prompt: Prompt) -> str:
        *system, question = prompt.messages
        body = {
            "model": self.model,
            # The system message stays plain text: not every server takes parts there.
            "messages": [*system, *with_image([question], image_url_part(prompt.image))],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "seed": prompt.seed,
        }
        answer = self._send(client, "POST", "/chat/completions", body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{self._where} does not answer as OpenAI's protocol has it: check --endpoint") from error
        return text if isinstance(text, str) else ""

    def models(self) -> list[str]:
        """The names of the models that the server has."""
        with self._client() as client:
            listed = self._send(client, "GET", "/models", None)
        try:
            return [str(one["id"]) for one in listed["data"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{self._where} does not list its models: name one as CHECKPOINT") from error

    def _send(self, client: httpx.Client, method: str, path: str, body: Any) -> Any:
        """The JSON of an answer. Asked again, after a wait that doubles, where the server is busy or gone.

        Raises:
            UserError: where it refuses, or stays away.
        """
        for attempt in range(TRIES):
            try:
                response = client.request(method, self.address + path, json=body)
            except httpx.TransportError as error:
                said, least = type(error).__name__, 0.0
            else:
                if response.is_success:
                    return _json(response)
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    raise UserError(f"{self._where} refuses (answer {response.status_code}): {_reason(response)}")
                said, least = f"answer {response.status_code}", _retry_after(response)
            if attempt + 1 < TRIES:
                time.sleep(max(least, min(LONGEST_WAIT, 0.25 * 2**attempt) * random.uniform(0.5, 1)))  # noqa: S311 so that not all come back at once
        raise UserError(f"{self._where} does not answer ({said}): start it, then run the same command again")

    @property
    def _where(self) -> str:
        return self.address.rpartition("@")[2]


def connect(endpoint: str, model: str, sampling: Sampling, at_once: int) -> OpenAIBackend:
    """A server that is there, and has the model.

    Raises:
        UserError: where the address is none, nobody answers, or there is no such model.
    """
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
        raise UserError(f"--endpoint {endpoint} is no address: write http://HOST:PORT/v1")
    engine = OpenAIBackend(endpoint.rstrip("/"), model, sampling, at_once)
    known = engine.models()
    if model not in known:
        some = printable(", ".join(known[:10])[:SAID])
        raise UserError(f"{engine._where} has no model {model}: name one of {some}")
    return engine


def image_url_part(image: Image) -> dict[str, Any]:
    """The image as a part of a message: as PNG inside a URL, so that not a pixel is changed."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _json(response: httpx.Response) -> Any:
    """What the server answers; None where it is no JSON. Bytes that are no UTF-8 are replaced: it answers still."""
    try:
        return json.loads(response.text)
    except (ValueError, RecursionError):
        return None


def _reason(response: httpx.Response) -> str:
    return printable(response.text[:SAID])


def printable(text: str) -> str:
    """What a server says, on one line and without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(60.0, float(response.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0

"""A server that speaks OpenAI's chat protocol on loopback, plays a model, and fails where it is told to."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from PIL import Image

from datagen.interaction import Observation
from evaluation.backends import transformers as transformers_backend
from evaluation.backends.base import Prompt, Sampling
from tests.loopback import listening


class Server:
    """What the tests see: `asked` counts requests for an answer; of these every `fails`-th gets none."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked = 0
        self.failed = 0
        self.fails = 0
        self.lock = threading.Lock()


@contextmanager
def serving(checkpoint: Path, max_new_tokens: int) -> Iterator[Server]:
    """A server of a checkpoint, as the model `served`, for as long as the block runs."""
    backend = transformers_backend.load(checkpoint, Sampling(max_new_tokens), 1)

    def say(prompt: Prompt) -> str:
        [(_, text)] = backend.generate([prompt])
        return text

    with playing(say) as server:
        yield server


@contextmanager
def playing(say: Callable[[Prompt], str | bytes], model: str = "served") -> Iterator[Server]:
    """A server of one model, which says what `say` says: a text, or the bytes of a whole response."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing on stderr."""

        def send(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:  # the name is http.server's
            self.send(200, {"data": [{"id": model}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked += 1
                if state.fails and state.asked % state.fails == 0:
                    state.failed += 1
                    if state.failed % 2:
                        self.send(503, {"error": "not now"})
                    else:
                        self.close_connection = True
                        self.connection.shutdown(2)
                    return
                said = say(prompt_of(body))
            self.send(200, said if isinstance(said, bytes) else reply(said))

    with listening(Handler) as address:
        state = Server(f"{address}/v1")
        yield state


def reply(text: str) -> dict[str, Any]:
    """The response that has this text."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def prompt_of(body: dict[str, Any]) -> Prompt:
    """The prompt that a request describes."""
    system, user, *more = body["messages"]
    shown = images_in(user)
    asked = {"role": "user", "content": text_in(user)}
    history = [(text_of(said), observation_of(seen)) for said, seen in zip(more[::2], more[1::2], strict=True)]
    assert shown
    assert [message["role"] for message in more] == ["assistant", "user"] * len(history)
    return Prompt("served", [system, asked], shown, opening=True, history=history)


def observation_of(message: dict[str, Any]) -> Observation:
    """The text and the image of a user's message, which has one of each at most, the image first."""
    assert len(message["content"]) == bool(text_in(message)) + len(images_in(message))
    return Observation(text_in(message), *images_in(message))


def text_in(message: dict[str, Any]) -> str:
    """The text of a user's message, which has its images before it."""
    return "".join(part["text"] for part in message["content"][-1:] if part["type"] == "text")


def images_in(message: dict[str, Any]) -> list[Image.Image]:
    """The images of a user's message."""
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    contents = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]
    return [Image.open(io.BytesIO(content)) for content in contents]


def text_of(message: dict[str, Any]) -> str:
    """The text of an assistant's message: plain, or the only part."""
    content = message["content"]
    return str(content if isinstance(content, str) else content[0]["text"])

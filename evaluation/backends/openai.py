"""A server that speaks OpenAI's chat protocol generates the answers: vLLM's own, or any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from datagen.common.errors import UserError
from datagen.interaction import image_url_part
from datagen.r1_format import with_reasoning
from evaluation.backends.base import NoAnswer, Prompt, Sampling
from evaluation.backends.openai_server import RefusedError, Server, parse_endpoint, refuses

CONCURRENCY = 32  # requests at the same time, unless --batch-size says otherwise
UNFINISHED = ("length", "content_filter", "error")  # reasons for an end before any text: there was more, or nothing
REFUSALS = 32  # of questions, one after the other: beyond that, nothing else is to be expected
NO_LIST = (400, 404, 405, 501)  # answers of servers that have no list of their models
OF_QUESTION = (400, 413, 422)  # refusals that may be meant for one question, and for no other


@dataclass(frozen=True)
class OpenAIBackend:
    """A model of a server; `concurrency` requests are sent at the same time.

    `sent_as` has the names of the parameters that not every server takes, as this one takes them. `unlisted` is what
    the server does in place of having the model in its list.
    """

    server: Server
    model: str
    sampling: Sampling
    concurrency: int
    unlisted: str | None = None
    sent_as: dict[str, str] = field(default_factory=lambda: {"seed": "seed", "limit": "max_tokens"})

    def describe(self) -> dict[str, str]:
        """Name, address and model."""
        return {"name": "openai", "address": self.server.address, "model": self.model}

    def notes(self) -> list[str]:
        """What of the questions the server would not take, and what it does not say."""
        address, limit = self.server.address, self.sent_as.get("limit")
        known = [
            (self.unlisted is not None, f"{address} {self.unlisted}: nothing says which model answers."),
            ("seed" not in self.sent_as, f"{address} takes no seed: sampled answers differ from run to run."),
            (limit is None, f"{address} takes no limit of tokens: --max-new-tokens is left out."),
            (
                limit == "max_completion_tokens",
                f"{address} takes the limit of tokens as max_completion_tokens, which counts hidden reasoning too.",
            ),
        ]
        return [sentence for applies, sentence in known if applies]

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str | NoAnswer]]:
        """(index in `prompts`, what was generated), in the order in which the server is done.

        Raises:
            UserError: where the server refuses many questions in a row, stays away, or does not answer in OpenAI's
                protocol.
        """
        indices = iter(range(len(prompts)))
        running: dict[Future[str | NoAnswer], int] = {}
        refused = 0  # in a row
        with self.server.connected(self.concurrency) as client, ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    for index in islice(indices, self.concurrency - len(running)):
                        running[pool.submit(self._complete, client, prompts[index])] = index
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        refusal = done.exception()
                        if isinstance(refusal, RefusedError) and refusal.status in OF_QUESTION and refused < REFUSALS:
                            refused += 1
                            yield running.pop(done), NoAnswer(str(refusal))
                        else:
                            refused = 0
                            yield running.pop(done), done.result()
            finally:
                for future in running:
                    future.cancel()

    def _complete(self, client: Any, prompt: Prompt) -> str | NoAnswer:
        body = {
            "model": self.model,
            "messages": [plain(message) for message in prompt.conversation(image_url_part)],
            "temperature": self.sampling.temperature,
        }
        values = {"seed": prompt.seed, "limit": self.sampling.max_new_tokens}
        while True:
            sent = dict(self.sent_as)
            parameters = {name: values[key] for key, name in sent.items()}
            try:
                answer = self.server.request(client, "POST", "/chat/completions", body | parameters)
                break
            except RefusedError as refusal:
                if self._leave_out(sent, refusal.text):
                    continue
                if refusal.status == 404 and self.unlisted:
                    raise UserError(f"{refusal}; most addresses end with /v1: check --endpoint") from refusal
                raise
        try:
            choice = answer["choices"][0] if answer["choices"] else {"message": {}}
            text, ended = message_text(choice["message"]), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.server.address} does not answer as OpenAI's protocol has it: check --endpoint"
            ) from error
        if text is None or (not text and ended in UNFINISHED):
            why = f", and as finish_reason {ended}" if ended in UNFINISHED else ""
            return NoAnswer(f"{self.server.address} answers without any text{why}")
        return text

    def _leave_out(self, sent: Mapping[str, str], text: str) -> bool:
        """Leave out, or name otherwise, what a server says that it does not take; returns whether that is anything."""
        refused = [key for key, name in sent.items() if refuses(text, name)]
        for key in refused:
            if self.sent_as.get(key) != sent[key]:  # another request was told so before
                continue
            if key == "limit" and sent[key] == "max_tokens" and "max_completion_tokens" in text:
                self.sent_as[key] = "max_completion_tokens"
            else:
                self.sent_as.pop(key, None)
        return bool(refused)


def plain(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with its text alone, unless it is a user's: not every server takes parts elsewhere."""
    return message if message["role"] == "user" else {**message, "content": _text_of(message["content"])}


def message_text(message: Mapping[str, Any]) -> str | None:
    """What a model generated: the content, a text or a list of text parts, behind the reasoning; None for nothing.

    A server with a reasoning parser (vLLM's `--reasoning-parser`) puts the reasoning without its tags into a field of
    its own, `reasoning` (`reasoning_content` in older versions), or into parts. A model that
    refuses may say so in `refusal`.

    Raises:
        TypeError: for content of another form.
    """
    content, thoughts = message.get("content") or message.get("refusal") or message.get("content"), ""
    if isinstance(content, list):
        thoughts = "".join(_text_of(part["thinking"]) for part in content if part["type"] == "thinking")
        content = _text_of([part for part in content if part["type"] != "thinking"]) if content else None
    reasoning = message.get("reasoning") or message.get("reasoning_content") or thoughts
    if not isinstance(content, str | None) or not isinstance(reasoning, str):
        raise TypeError("content and reasoning are texts")
    return with_reasoning(reasoning, content)


def _text_of(parts: str | Sequence[Mapping[str, Any]]) -> str:
    return parts if isinstance(parts, str) else "".join(part["text"] for part in parts)


def connect(endpoint: str, model: str, sampling: Sampling, concurrency: int) -> OpenAIBackend:
    """A server that is there, and has the model, as far as its list says.

    Raises:
        UserError: where the address is none, nobody answers, or there is no such model.
    """
    server = parse_endpoint(endpoint)
    unlisted = None
    try:
        known = list_models(server)
    except RefusedError as refusal:
        if refusal.status not in NO_LIST:
            raise
        unlisted = f"does not list its models (answer {refusal.status})"
    else:
        if model not in known:
            wildcard = next((name for name in known if "*" in name and fnmatchcase(model, name)), None)
            if wildcard is None:
                some = server.quoted(", ".join(known[:10]))
                raise UserError(f"{server.address} has no model {model}: name one of {some}")
            unlisted = f"lists {server.quoted(wildcard)} and not {model}"
    return OpenAIBackend(server, model, sampling, concurrency, unlisted)


def list_models(server: Server) -> list[str]:
    """The names of the models that a server lists.

    Raises:
        UserError: where the server refuses, stays away, or does not list them.
    """
    with server.connected(1) as client:
        answer = server.request(client, "GET", "/models", None)
    try:
        return [str(model["id"]) for model in answer["data"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{server.address} does not list its models: check --endpoint") from error

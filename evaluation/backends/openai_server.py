"""A server that speaks OpenAI's protocol: its address and key, and requests that are sent again where it is busy.

Nothing that is printed or written has the keys: `Server.address` is the address without them, and `Server.quoted` takes
them out of what the server says.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import httpx

from datagen.common.errors import UserError, strip_secrets
from datagen.common.proxies import client_problem, proxy_variable

MAX_ATTEMPTS = 8
MAX_WAIT = 20.0  # seconds between two attempts, unless the server asks for more
MAX_RETRY_AFTER = 60.0  # seconds that a server may ask for
MAX_QUOTED = 300  # characters of what a server says
SHORTEST_KEY = 4  # characters of a password or a key in an address: a shorter one is found in other words
KEY = "OPENAI_API_KEY"
AROUND_KEYS = (
    " \t\r\n\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}"
    + (
        "\N{RIGHT SINGLE QUOTATION MARK}\N{ZERO WIDTH NO-BREAK SPACE}"  # what comes along where a key is copied
    )
)
BUSY = (408, 409, 425, 429)  # and from 500 on: a later attempt may end otherwise
OPTIONAL = ("seed", "max_tokens", "max_completion_tokens")  # parameters that not every server takes
NO_MONEY = re.compile("insufficient_quota|billing_(hard_limit_reached|not_active)")  # no later attempt will
FILTERED = re.compile("content_filter|content_policy|data_inspection_failed", re.IGNORECASE)
NOT_TAKEN = re.compile(
    "unsupported|n[o']t support|unknown|unrecogni[sz]ed|unexpected|extra|n[o']t (permitted|allowed)|cannot find|"
    "additional propert",
    re.IGNORECASE,
)


class RefusedError(UserError):
    """A server will not do what it was asked; `text` is all that it says, with an HTTP status."""

    def __init__(self, message: str, status: int, text: str) -> None:
        super().__init__(message)
        self.status, self.text = status, text


def refuses(text: str, parameter: str) -> bool:
    """Whether a server says that it does not take a parameter."""
    return re.search(rf"\b{parameter}\b", text) is not None and NOT_TAKEN.search(text) is not None


@dataclass(frozen=True)
class Failure:
    """An answer that is none: its HTTP status (or the one that it speaks of), and all that it says.

    `words` are what of that is for people, and `wait` is for how many seconds the server asks.
    """

    status: int
    text: str
    words: str
    wait: float

    def is_final(self) -> bool:
        """Whether the same request will fail again."""
        busy = self.status in BUSY or self.status >= 500
        return not busy or NO_MONEY.search(self.text) is not None or any(refuses(self.text, name) for name in OPTIONAL)


@dataclass(frozen=True)
class Server:
    """A server. `address` (…/v1) is without user, password and query, which are in `login` and `query`."""

    address: str
    query: str
    login: tuple[str, str] | None
    token: str

    @contextmanager
    def connected(self, connections: int) -> Iterator[httpx.Client]:
        """A client of so many connections.

        Raises:
            UserError: where a variable about proxies or certificates is wrong.
        """
        logging.getLogger(httpx.__name__).addFilter(_without_secrets)  # it logs every address, at level INFO
        try:
            client = httpx.Client(
                headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
                auth=self.login,
                timeout=httpx.Timeout(600, connect=10),
                limits=httpx.Limits(max_connections=connections),
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise UserError(client_problem() or f"no HTTP client can be made: {error}") from error
        with client:
            yield client

    def request(self, client: httpx.Client, method: str, path: str, body: Any) -> Any:
        """The JSON of a response. Sent again, after a wait that doubles, where the server is busy or gone.

        Raises:
            RefusedError: where it will not.
            UserError: where it stays away or busy.
        """
        proxy = proxy_variable(self.address)
        through = f", through the proxy of {proxy}, of which NO_PROXY takes hosts out" if proxy else ""
        url = f"{self.address}{path}?{self.query}" if self.query else self.address + path
        for attempt in range(MAX_ATTEMPTS):
            try:
                response = client.request(method, url, json=body)
            except httpx.RequestError as error:
                reason = self.quoted(str(error)) or type(error).__name__
                if "[SSL:" in reason:
                    raise UserError(
                        f"{self.address} can't be trusted ({reason}): name its certificate in SSL_CERT_FILE, or write "
                        "http:// where it has none"
                    ) from error
                problem, advice, wait = f"does not answer ({reason}{through})", "start it, then run", 0.0
            else:
                value = _parse_json(response)
                failure = _failure(response, value)
                if failure is None:
                    return value
                answered = f"(answer {failure.status}{through}): {self.quoted(failure.words)}"
                if failure.is_final():
                    raise RefusedError(f"{self.address} refuses {answered}", failure.status, failure.text)
                problem, advice, wait = f"is busy or broken {answered}", "run", failure.wait
            if attempt + 1 < MAX_ATTEMPTS:
                backoff = min(MAX_WAIT, 0.25 * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311 so that not all come back at once
                time.sleep(max(wait, backoff))
        raise UserError(f"{self.address} {problem}: {advice} the same command again")

    def quoted(self, text: str) -> str:
        """What the server says, on one line, shortened, and without control characters and keys."""
        login = self.login or ()
        basic = base64.b64encode(":".join(login).encode()).decode() if login else ""
        values = (value for _, value in parse_qsl(self.query))
        keys = [key for key in (self.token, basic, *login, *values) if len(key) >= SHORTEST_KEY]
        text = "".join(c if c.isprintable() else " " for c in strip_secrets(text, *keys))
        return text[:MAX_QUOTED]


def parse_endpoint(endpoint: str) -> Server:
    """The server at an address, which may have a user and password, and a query that goes with every request.

    Raises:
        UserError: where the address is none, or `OPENAI_API_KEY` is no key. It quotes neither.
    """
    try:
        parts = urlsplit(endpoint.strip())
        login, _, host = parts.netloc.rpartition("@")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        address = urlunsplit((parts.scheme, host, path, "", ""))
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        parts, login, host, address = urlsplit(""), "", "", ""
    if parts.scheme not in ("http", "https") or not host:
        raise UserError("--endpoint is no address: write http://HOST:PORT/v1")
    if "@" in parts.path + parts.query + parts.fragment:
        raise UserError("--endpoint has an @ behind its host: write @ / ? # of a password as %40 %2F %3F %23")
    user, _, password = login.partition(":")
    return Server(address, parts.query, (unquote(user), unquote(password)) if login else None, _read_key())


def _read_key() -> str:
    """The key in the environment, without white space and quotes around it; empty where there is none.

    Raises:
        UserError: where it has a character that no key has.
    """
    key = os.environ.get(KEY, "").strip(AROUND_KEYS)
    if odd := re.search(r"[^!-~]", key):
        raise UserError(f"{KEY} has the character U+{ord(odd[0]):04X}, and a key has none such: copy it again")
    return key


def _failure(response: httpx.Response, value: Any) -> Failure | None:
    """What a response says is wrong, also where its status is 200; None for an answer."""
    error = _error_in(value)
    if response.is_success and not error:
        return None
    code = str(error.get("code", "") if isinstance(error, dict) else "")
    status = response.status_code
    if response.is_success:
        unnamed = 400 if FILTERED.search(response.text) else 500
        status = int(code) if re.fullmatch("[45][0-9]{2}", code, re.ASCII) else unnamed
    text = f"it has moved to {response.headers.get('Location')}" if response.is_redirect else response.text
    return Failure(status, text, _words(error) or text, _retry_after(response.headers.get("Retry-After", "")))


def _error_in(value: Any) -> Any:
    """The error in the JSON of a response, beside its choices, in the first of them, or in their place."""
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    within = first.get("error") if isinstance(first, dict) else None
    return value.get("error") or within or (value if value.get("object") == "error" else None)


def _words(error: Any) -> str:
    """The sentence of an error, and the one of whom the server has asked in turn."""
    if not isinstance(error, dict):
        return error if isinstance(error, str) else ""
    metadata = error.get("metadata")
    more = metadata.get("raw") if isinstance(metadata, dict) else None
    return " ".join(text for text in (error.get("message"), more) if isinstance(text, str))


def _parse_json(response: httpx.Response) -> Any:
    """What the server answers; None where it is no JSON. Bytes that are no UTF-8 are replaced."""
    try:
        return json.loads(response.text)
    except (ValueError, RecursionError):
        return None


def _retry_after(text: str) -> float:
    """The seconds that a header asks to wait, or those until the time that it names; 0 where it is neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text.strip(), re.ASCII):
        return min(MAX_RETRY_AFTER, float(text))
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    seconds = (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(MAX_RETRY_AFTER, max(0.0, seconds))


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = strip_secrets(record.getMessage()), ()
    return True

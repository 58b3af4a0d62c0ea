"""What servers that speak OpenAI's protocol do in their own ways, and what becomes of the keys that they are given."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from evaluation.backends import openai_server
from tests.evaluation.conftest import Call, read
from tests.evaluation.server import prompt_of, reply
from tests.loopback import listening
from tests.processes import refused

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, JSON value (or bytes), and perhaps headers."""

GOOD = reply("I see 1.</think>\n<answer>1</answer>")


class Asked:
    """What a server has been asked: the bodies of the requests for answers, the paths and the headers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[Any] = []


@contextmanager
def answering(
    answer: Callable[[dict[str, Any], int], Answer], models: Answer = (200, {"data": [{"id": "served"}]})
) -> Iterator[tuple[str, Asked]]:
    """A server that gives `answer(body, number)`; its address, and what it is asked."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send(models)

        def do_POST(self) -> None:
            asked.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send(answer(asked.bodies[-1], len(asked.bodies)))

        def send(self, answer: Answer) -> None:
            asked.paths.append(self.path)
            asked.headers.append(self.headers)
            status, value, *headers = answer
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers[0] if headers else {}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as address:
        yield f"{address}/v1", asked


@pytest.fixture
def ask(r1vlm_eval: Call, digits_folder: Path, tmp_path: Path) -> Call:
    """Call the command with an endpoint, for four questions one after the other."""

    def call(endpoint: str, *words: object) -> Any:
        common = ("--data", digits_folder, "--limit", 4, "--batch-size", 1, "--out", tmp_path / "out")
        return r1vlm_eval("served", "--endpoint", endpoint, *common, *words)

    return call


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would wait between two attempts: it does not."""
    seconds: list[float] = []
    monkeypatch.setattr(openai_server.time, "sleep", seconds.append)
    return seconds


def last(done: Any) -> str:
    """The last line on stderr of a command that was refused: a progress bar may stand above."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stderr.splitlines()[-1])


def kept(tmp_path: Path) -> list[Any]:
    """The entries of the cache."""
    files = list((tmp_path / "answers").rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# Questions that get no answer


UNANSWERED: dict[str, tuple[Answer, str]] = {
    "no choices": ((200, {"choices": []}), "answers without any text"),
    "choices that are null": ((200, {"choices": None}), "answers without any text"),
    "no text": ((200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}), "any text"),
    "nothing but hidden reasoning": (
        (200, {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}),
        "any text, and as finish_reason length",
    ),
    "a filter with an error": ((400, {"error": {"code": "content_filter", "message": "Not this."}}), "Not this."),
    "one in a response of status 200": ((200, {"error": {"code": "content_filter", "message": "Not so."}}), "Not so."),
    "an image that it can't read": ((422, {"detail": "This image is too small."}), "This image is too small."),
}


@pytest.mark.parametrize("way", UNANSWERED)
def test_one_question_without_an_answer_does_not_end_the_run(way: str, ask: Call, tmp_path: Path) -> None:
    answer, reason = UNANSWERED[way]
    with answering(lambda _, number: answer if number == 2 else (200, GOOD)) as (address, asked):
        done = ask(address, "--report")
        assert done.returncode == 0, done.stderr
        assert len(asked.bodies) == 4
        result = read(tmp_path / "out" / "results.json")
        (warning,) = result["warnings"]
        assert "1 of 4 questions got no answer" in warning
        assert reason in warning
        assert f"warning: {warning}" in done.stderr
        assert "got no answer" in (tmp_path / "out" / "report.html").read_text()
        assert (result["n"], result["unanswered"]) == (4, 1)
        assert sum("completion" in entry for entry in kept(tmp_path)) == 3
        again = ask(address)  # it is asked again, and answered
        assert again.returncode == 0
        assert len(asked.bodies) == 5
        result = read(tmp_path / "out" / "results.json")
        assert (result["unanswered"], result["warnings"]) == (0, [])


@pytest.mark.parametrize("way", UNANSWERED)
def test_where_no_question_gets_an_answer_there_is_no_result(way: str, ask: Call, tmp_path: Path) -> None:
    answer, reason = UNANSWERED[way]
    with answering(lambda *_: answer) as (address, _):
        sentence = last(ask(address))
    assert "no question got an answer" in sentence
    assert reason in sentence
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_server_that_refuses_everything_is_asked_no_thousand_times(
    r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    with answering(lambda *_: (400, {"error": {"message": "too long"}})) as (address, asked):
        words = ("--data", digits_folder, "--batch-size", 1, "--out", tmp_path / "out")
        done = r1vlm_eval("served", "--endpoint", address, *words)  # 40 questions
    assert "refuses (answer 400): too long" in last(done)
    assert len(asked.bodies) < 40


# Errors


ERRORS: dict[str, tuple[Answer, str, int]] = {
    "busy, with status 200": ((200, {"error": {"code": 429, "message": "slow down"}}), "(answer 429): slow down", 8),
    "busy, code as text": ((200, {"error": {"code": "503", "message": "later"}}), "(answer 503): later", 8),
    "a word that is not about a parameter": (
        (500, {"error": {"message": "The model met an unexpected error."}}),
        "is busy or broken (answer 500): The model met",
        8,
    ),
    "no code": ((200, {"error": "something broke"}), "something broke", 8),
    "beside choices": (
        (200, {"choices": [{"message": {"content": None}}], "error": {"code": 502, "message": "upstream"}}),
        "(answer 502): upstream",
        8,
    ),
    "within a choice": ((200, {"choices": [{"error": {"code": 502, "message": "cut"}}]}), "(answer 502): cut", 8),
    "an error object in place of an answer": ((200, {"object": "error", "message": "bad", "code": 404}), "bad", 1),
    "final, with status 200": ((200, {"error": {"code": 401, "message": "no"}}), "refuses (answer 401): no", 1),
    "the words of the server behind the server": (
        (401, {"error": {"message": "Provider returned error", "metadata": {"raw": "bad key there"}}}),
        "Provider returned error bad key there",
        1,
    ),
    "no money": (
        (429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}}),
        "refuses (answer 429): You exceeded your quota.",
        1,
    ),
    "moved": ((308, b"", {"Location": "https://other.example/v1"}), "has moved to https://other.example/v1", 1),
}


@pytest.mark.parametrize("way", ERRORS)
def test_an_error_is_tried_again_by_its_code_and_said_in_the_server_s_words(
    way: str, ask: Call, waits: list[float], tmp_path: Path
) -> None:
    answer, words, attempts = ERRORS[way]
    with answering(lambda *_: answer) as (address, asked):
        sentence = last(ask(address))
    assert words in sentence
    assert len(asked.bodies) == attempts
    assert not any("completion" in entry for entry in kept(tmp_path))


def test_an_error_that_passes_is_no_error(ask: Call, waits: list[float], tmp_path: Path) -> None:
    busy = (200, {"error": {"code": 429, "message": "slow down"}})
    with answering(lambda _, number: busy if number % 2 else (200, GOOD)) as (address, _):
        assert ask(address).returncode == 0
    assert read(tmp_path / "out" / "results.json")["unanswered"] == 0


def test_the_waits_that_a_server_asks_for(ask: Call, waits: list[float]) -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    given: dict[str, float | None] = {"7": 7, "2.5": 2.5, "86400": 60, tomorrow: 60}
    given |= dict.fromkeys(("nan", "inf", "-5", "-inf", "soon", "", "1e400", "0", "Wed, 21 Oct 2015 07:28:00 GMT"))
    given |= {"Wed, 99 Foo 2026 00:00:00 GMT": None}  # None: as long as where the server says nothing
    headers = [{"Retry-After": text} for text in given]
    busy = {"error": {"message": "slow down"}}
    with answering(lambda _, n: (429, busy, headers[n // 2]) if n % 2 else (200, GOOD)) as (address, _):
        assert ask(address, "--limit", len(given)).returncode == 0
    for (text, wanted), seconds in zip(given.items(), waits, strict=True):
        assert seconds == wanted if wanted is not None else 0.1 < seconds < 0.3, text


# Parameters that a server does not take


OPENAI = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
EXTRA = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}


def strict(refusal: Answer, *names: str) -> Callable[[dict[str, Any], int], Answer]:
    """A server that refuses requests with these parameters."""
    return lambda body, _: refusal if any(name in body for name in names) else (200, GOOD)


PARAMETERS: dict[str, tuple[Callable[[dict[str, Any], int], Answer], set[str], str]] = {
    "a limit by another name": (
        strict((400, {"error": {"message": OPENAI, "param": "max_tokens"}}), "max_tokens"),
        {"seed", "max_completion_tokens"},
        "max_completion_tokens",
    ),
    "no limit": (strict((400, {"error": "unknown field max_tokens"}), "max_tokens"), {"seed"}, "no limit of tokens"),
    "no seed": (strict((422, EXTRA), "seed"), {"max_tokens"}, "takes no seed"),
    "no seed, and status 500": (
        strict((500, {"error": {"message": "ollama does not support parameters: {'seed': 1}"}}), "seed"),
        {"max_tokens"},
        "takes no seed",
    ),
    "no seed, and status 200": (
        strict((200, {"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}), "seed"),
        {"max_tokens"},
        "takes no seed",
    ),
}


@pytest.mark.parametrize("way", PARAMETERS)
def test_what_a_server_does_not_take_is_left_out_once_and_noted(
    way: str, ask: Call, waits: list[float], tmp_path: Path
) -> None:
    answer, names, note = PARAMETERS[way]
    with answering(answer) as (address, asked):
        for _ in range(2):  # of which the second has all answers already
            done = ask(address)
            assert done.returncode == 0, done.stderr
            (warning,) = read(tmp_path / "out" / "results.json")["warnings"]
            assert note in warning
            assert f"warning: {warning}" in done.stderr
    assert len(asked.bodies) == 5
    assert {"seed", "max_tokens", "max_completion_tokens"} & asked.bodies[-1].keys() == names
    assert asked.bodies[-1].get("max_completion_tokens", 512) == 512


def test_a_value_that_is_refused_is_not_left_out(ask: Call) -> None:
    words = "'max_tokens' or 'max_completion_tokens' is too large: 512. The maximum context length is 256 tokens."
    with answering(lambda *_: (400, {"error": {"message": words}})) as (address, asked):
        assert "too large: 512" in last(ask(address))
    assert all("max_tokens" in body for body in asked.bodies)


# The list of models


def test_a_model_behind_a_wildcard_is_asked_with_a_warning(ask: Call, tmp_path: Path) -> None:
    with answering(lambda *_: (200, GOOD), (200, {"data": [{"id": "other"}, {"id": "ser*"}]})) as (address, _):
        done = ask(address)
    assert done.returncode == 0
    (warning,) = read(tmp_path / "out" / "results.json")["warnings"]
    assert "lists ser* and not served" in warning
    assert f"warning: {warning}" in done.stderr
    with answering(lambda *_: (200, GOOD), (200, {"data": [{"id": "open*"}]})) as (address, _):
        assert "has no model served: name one of open*" in last(ask(address))


def test_a_server_without_a_list_is_asked_with_a_warning(ask: Call, tmp_path: Path) -> None:
    with answering(lambda *_: (200, GOOD), (404, {"detail": "Not Found"})) as (address, asked):
        done = ask(f"{address}/chat/completions")  # an address is often copied whole
    assert done.returncode == 0
    assert {*asked.paths} == {"/v1/models", "/v1/chat/completions"}
    (warning,) = read(tmp_path / "out" / "results.json")["warnings"]
    assert "does not list its models (answer 404): nothing says which model answers" in warning
    assert f"warning: {warning}" in done.stderr


def test_an_address_that_lacks_its_path_is_known_by_what_it_lacks(ask: Call) -> None:
    missing: Answer = (404, {"detail": "Not Found"})
    with answering(lambda *_: missing, missing) as (address, _):
        sentence = last(ask(address.removesuffix("/v1")))
    assert "refuses (answer 404): " in sentence
    assert sentence.endswith("most addresses end with /v1: check --endpoint")


# Connections


def test_a_proxy_that_an_address_is_asked_through_is_named(
    ask: Call, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with answering(lambda *_: (200, GOOD), (503, b"<html>no such host</html>")) as (proxy, asked):
        monkeypatch.setenv("HTTP_PROXY", proxy.removesuffix("/v1"))
        sentence = last(ask("http://127.0.0.1:9/v1"))
        assert "is busy or broken (answer 503, through the proxy of HTTP_PROXY, of which NO_PROXY takes" in sentence
        assert asked.paths == ["http://127.0.0.1:9/v1/models"] * 8
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        sentence = last(ask("http://127.0.0.1:9/v1"))
        assert "does not answer ([Errno 111] Connection refused): start it" in sentence


def test_a_certificate_that_is_none_is_said_at_once(ask: Call, waits: list[float]) -> None:
    with answering(lambda *_: (200, GOOD)) as (address, _):
        sentence = last(ask(address.replace("http", "https")))
    assert "can't be trusted ([SSL" in sentence
    assert waits == []


def test_an_answer_that_can_t_be_unpacked_is_tried_again(ask: Call, waits: list[float]) -> None:
    broken: Answer = (200, b"no gzip", {"Content-Encoding": "gzip"})
    with answering(lambda _, number: broken if number % 2 else (200, GOOD)) as (address, _):
        assert ask(address).returncode == 0


@pytest.mark.parametrize("key", ["", " "])
def test_no_key_is_no_header(key: str, ask: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with answering(lambda *_: (200, GOOD)) as (address, asked):
        assert ask(f"{address}/").returncode == 0
    assert "Authorization" not in asked.headers[-1]
    assert asked.paths[-1] == "/v1/chat/completions"


# Most answers are none


GENERATED = {
    "are empty": ("", "are empty"),
    "repeat the opening": ("Let me solve this step by step.\n<think>I see 1.</think>\n<answer>1</answer>", "again"),
    "repeat the tag": ("<think>I see 1.</think>\n<answer>1</answer>", "again"),
    "lack the reasoning": ("<answer>1</answer>", "no </think> before <answer>"),
}


@pytest.mark.parametrize("way", GENERATED)
def test_answers_that_may_not_be_what_the_model_said_are_said_loudly(
    way: str, ask: Call, r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    text, words = GENERATED[way]
    with answering(lambda _, number: (200, GOOD if number == 4 else reply(text))) as (address, _):
        done = ask(address, "--report")
    assert done.returncode == 0
    (warning,) = read(tmp_path / "out" / "results.json")["warnings"]
    assert warning.startswith("served: 3 of 4 answers")
    assert words in warning
    assert f"warning: {warning}" in done.stderr
    assert "3 of 4 answers" in (tmp_path / "out" / "report.html").read_text()
    words_again = ("--data", digits_folder, "--limit", 4, "--out", tmp_path / "again")
    again = r1vlm_eval(tmp_path / "out" / "completions.jsonl", *words_again)
    said = warning.replace("served:", "completions.jsonl:")
    assert said in read(tmp_path / "again" / "results.json")["warnings"]
    assert f"warning: {said}" in again.stderr


def test_answers_as_they_should_be_are_not_doubted(questions: list[dict[str, Any]], ask: Call, tmp_path: Path) -> None:
    prompts = {question["prompt"][-1]["content"]: question for question in questions}
    with answering(
        lambda body, _: (
            200,
            reply(prompts[prompt_of(body).messages[-1]["content"]]["solution"].partition("<think>")[2]),
        )
    ) as (address, _):
        done = ask(address)
    assert "warning" not in done.stderr
    assert read(tmp_path / "out" / "results.json")["warnings"] == []


# Keys and passwords


KEY, USER, PASSWORD, QUERY_KEY = "sk-very/secret+0123456789", "somebody", "pass/word 99", "query-key-77"
SECRETS = (
    KEY,
    USER,
    PASSWORD,
    QUERY_KEY,
    "pass%2Fword",
    "word%2099",
    base64.b64encode(b"somebody:pass/word 99").decode(),
)


def with_secrets(address: str) -> str:
    login = f"{USER}:pass%2Fword%2099"
    return address.replace("http://", f"http://{login}@") + f"?key={QUERY_KEY}&api-version=1"


def assert_no_secret(done: Any, folder: Path, *more: str) -> None:
    texts = {"stdout": done.stdout, "stderr": done.stderr, **{str(i): text for i, text in enumerate(more)}}
    texts |= {str(path): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}
    found = [(name, secret) for name, text in texts.items() for secret in SECRETS if secret in text or secret in name]
    assert not found


def test_no_file_and_no_line_has_the_keys_of_an_endpoint(
    key: str, ask: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(lambda *_: (200, GOOD)) as (address, asked), caplog.at_level(logging.DEBUG):
        done = ask(with_secrets(address), "--report", "--log-samples", "--controls")
    assert done.returncode == 0, done.stderr
    assert asked.paths[-1] == f"/v1/chat/completions?key={QUERY_KEY}&api-version=1"
    assert asked.headers[-1]["Authorization"] == f"Basic {SECRETS[-1]}"
    assert read(tmp_path / "out" / "results.json")["engine"]["address"] == address
    assert "/v1/chat/completions" in caplog.text
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) >= 9
    assert_no_secret(done, tmp_path, caplog.text)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key, which is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.mark.parametrize("of_models", [True, False])
@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.usefixtures("waits")
def test_a_server_that_echoes_the_keys_puts_them_nowhere(
    status: int, of_models: bool, key: str, ask: Call, tmp_path: Path
) -> None:
    echo = "x" * 280 + f" {' '.join(SECRETS)} http://{USER}:{PASSWORD}@h/?key={QUERY_KEY}"  # some over the end
    answer: Answer = (status, json.dumps({"error": {"message": echo}}).replace("/", "\\/").encode())
    with answering(lambda *_: answer, *([answer] if of_models else [])) as (address, _):
        done = ask(with_secrets(address))
    assert "xxx" in last(done)
    assert_no_secret(done, tmp_path)
    assert key[:7] not in done.stderr  # nor what is left of it where the text is cut
    with answering(lambda *_: (200, GOOD), (200, {"data": [{"id": f"a {key}"}]})) as (address, _):
        done = ask(with_secrets(address))
    assert "name one of a ***" in last(done)


@pytest.mark.parametrize(
    "endpoint",
    [
        f"{USER}:{PASSWORD}@host/v1",
        f"http://{USER}:{PASSWORD}@host/v1",
        f"http://{USER}:12{PASSWORD}?@host/v1",
        f"http://{USER}:12#{PASSWORD}@host/v1",
        f"http://{USER}:pass%2Fword@host:port/v1?key={QUERY_KEY}",
        f"http://[{USER}:pass%2Fword@::1/v1",
        f"ftp://{USER}:pass%2Fword@host/v1",
    ],
)
def test_an_endpoint_that_is_none_is_not_quoted(endpoint: str, ask: Call, tmp_path: Path) -> None:
    done = ask(endpoint)
    assert "--endpoint" in refused(done)
    assert_no_secret(done, tmp_path)


def test_a_settings_file_with_a_key_is_not_quoted(r1vlm_eval: Call, tmp_path: Path) -> None:
    endpoint = f"http://{USER}:x@h/v1?key={QUERY_KEY}"
    for line, words in ((f'["{endpoint}"]', "wrong 'endpoint'"), (f"[{endpoint}]", "is not valid YAML: expected")):
        (tmp_path / "e.yaml").write_text(f"checkpoint: served\nendpoint: {line}\n")
        sentence = refused(r1vlm_eval(tmp_path / "e.yaml"))
        assert words in sentence
        assert USER not in sentence
        assert QUERY_KEY not in sentence


@pytest.mark.parametrize(
    "around", ["{}\n", " {}\r\n", "\N{LEFT DOUBLE QUOTATION MARK}{}\N{RIGHT DOUBLE QUOTATION MARK}", "'{}'"]
)
def test_what_is_copied_with_a_key_is_stripped(around: str, ask: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", around.format("sk-123456789"))
    with answering(lambda *_: (200, GOOD)) as (address, asked):
        assert ask(address).returncode == 0
    assert asked.headers[-1]["Authorization"] == "Bearer sk-123456789"


@pytest.mark.parametrize(
    ("key", "named"), [("sk-12\N{RIGHT SINGLE QUOTATION MARK}34567", "U+2019"), ("sk-12\n34567", "U+000A")]
)
def test_a_character_that_no_key_has_is_named(key: str, named: str, ask: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    sentence = refused(ask("http://127.0.0.1:9/v1"))
    assert f"OPENAI_API_KEY has the character {named}" in sentence
    assert "34567" not in sentence


# Variables that the HTTP client can't use


VARIABLES = {
    "socks": ("ALL_PROXY", f"socks5://{USER}:pass%2Fword@127.0.0.1:1080", "names a SOCKS proxy"),
    "an older socks": ("all_proxy", f"socks://{USER}:pass%2Fword@127.0.0.1:1080", "is no address of a proxy"),
    "IPv6 without brackets": ("HTTPS_PROXY", f"http://{USER}:pass%2Fword@::1:3128", "HOST in brackets"),
    "no port": ("http_proxy", "127.0.0.1:port", "is no address of a proxy"),
    "a network of IPv6": ("NO_PROXY", "localhost,127.0.0.1,fd00::/8", "holds what is no host"),
    "IPv6 in brackets": ("no_proxy", "127.0.0.1,[::1]", "holds what is no host"),
    "certificates": ("SSL_CERT_FILE", "/nowhere/certificates.pem", "names no certificates"),
}


@pytest.mark.parametrize("way", VARIABLES)
def test_a_variable_that_the_client_can_t_use_is_named(
    way: str, ask: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, value, words = VARIABLES[way]
    for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.upper(), raising=False)
    monkeypatch.setenv(name, value)
    with answering(lambda *_: (200, GOOD)) as (address, _):
        done = ask(address)
    sentence = last(done)
    assert name.lower() in sentence.lower()
    assert words in sentence
    assert_no_secret(done, tmp_path)

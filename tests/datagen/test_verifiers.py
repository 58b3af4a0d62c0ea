"""Exported environments in the real verifiers, which `make test-verifiers` installs."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from datagen import r1_format
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import BuiltDataset, open_dataset
from datagen.dataset.reward_audit import attacks_on
from datagen.environment import replay
from datagen.export.verifiers import write_package
from datagen.interaction import decode_image, image_url_part
from datagen.registry import find_task
from datagen.task import score
from datagen.tasks.zoom import box_of
from evaluation.backends.base import Prompt
from evaluation.backends.openai import plain
from tests.conftest import MakeOnce
from tests.loopback import listening
from tests.outside import registry_restored

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("verifiers") is None, reason="verifiers is not installed: make test-verifiers"
)
Row = Mapping[str, Any]
SIZES = {"digits": 3000, "zoom": 4000, "check": 100, "pages": 200}  # images in all splits
QUESTIONS = {"digits": 600, "zoom": 400, "check": 20, "pages": 20}  # of the test split
MESSAGES = {"digits": {1}, "zoom": {1, 2, 3, 4}, "check": {2}, "pages": {1, 6}}  # of episodes, among others


class Model:
    """A served model whose episodes are fixed; it looks at the pixels of all it is shown.

    `episodes` are its full messages by the question's id. `problems` are the requests that were not as they should be,
    `turns` the messages it was asked for, by the question's id.
    """

    def __init__(self, rows: Sequence[Row], episodes: Mapping[str, Sequence[str]]) -> None:
        self.rows = {key_of(row["image"], row["prompt"][-1]["content"]): row for row in rows}
        self.episodes = episodes
        self.problems: list[str] = []
        self.turns: dict[str, int] = {}
        self.keys: set[str] = set()

    def say(self, body: dict[str, Any]) -> dict[str, Any]:
        """The message that answers a request."""
        _, user, *later = body["messages"]
        image, text = user["content"]
        row = self.rows[key_of(picture(image), text["text"])]
        turn = len(later) // 2
        self.turns[row["id"]] = turn + 1
        said = self.episodes[row["id"]]
        assert body["messages"] == asked(row, said[:turn])
        for before, seen in zip(later[::2], later[1::2], strict=True):
            for part in (part for part in seen["content"] if part["type"] == "image_url"):
                assert same(picture(part), shown(row, before["content"]))
        return message(r1_format.completion_of(said[turn]), number=len(self.turns))


def shown(row: Row, said: str) -> Image.Image:
    """The image that comes back to a message that gets one."""
    if "book" in row:
        book = decode_image(row["book"])
        top = "abcd".index(re.findall("page ([a-d])", said)[-1]) * book.height // 4
        return book.crop((0, top, book.width, top + book.height // 4))
    if "cells" in row:
        return decode_image(row["scene"]).crop(box_of(int(re.findall("zoom ([1-9])", said)[-1])))
    return decode_image(row.get("scene", row["image"]))


def message(text: str, number: int) -> dict[str, Any]:
    """An assistant's message; of every third one the reasoning is apart, as servers give it that parse it."""
    reasoning, closed, content = text.partition("</think>")
    if number % 3 or not (reasoning and closed and content):
        return {"role": "assistant", "content": text}
    name = "reasoning" if number % 2 else "reasoning_content"
    return {"role": "assistant", "content": content, name: reasoning}


def asked(row: Row, said: Sequence[str]) -> list[Mapping[str, Any]]:
    """The messages that r1vlm-eval sends for a row, behind what was said."""
    episode = replay(find_task(row["task"]), said, row)
    history = list(zip(episode.messages, episode.observations, strict=True))
    prompt = Prompt(row["id"], row["prompt"], [row["image"].convert("RGB")], opening=True, history=history)
    return [plain(one) for one in prompt.conversation(image_url_part)]


def key_of(image: Image.Image, text: str) -> tuple[bytes, tuple[int, int], str]:
    """What tells a question from all others: its pixels and its text."""
    return image.convert("RGB").tobytes(), image.size, text


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two images have the same pixels."""
    return key_of(one, "") == key_of(other, "")


def picture(part: dict[str, Any]) -> Image.Image:
    """The image of a part of a message."""
    data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data)))


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """A server of a model, for as long as the block runs; gives its address."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing on stderr."""

        def do_POST(self) -> None:  # the name is http.server's
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                model.keys.add(str(self.headers["Authorization"]))
                try:
                    choice = {"index": 0, "finish_reason": "stop", "message": model.say(body)}
                    status, answer = 200, {"choices": [choice]}
                except Exception as error:
                    model.problems.append(repr(error))
                    status, answer = 400, {"error": {"message": "not as it should be"}}
            head = {"id": "1", "object": "chat.completion", "created": 0, "model": "served"}
            sent = json.dumps(head | answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

    with listening(Handler) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="session", params=SIZES)
def folder(request: pytest.FixtureRequest, make_once: MakeOnce) -> Path:
    """A dataset with some hundreds of test questions."""
    name = request.param

    def fill(place: Path) -> None:
        build(DatasetConfig(dataset=name, size=SIZES[name], seed=5), place / name, workers=1)

    return make_once(f"for-verifiers-{name}", fill) / name


@dataclass(frozen=True)
class Run:
    """A run of `vf-eval`: what it earned by the question's id, and the traces it has written."""

    rewards: dict[str, dict[str, float]]
    traces: list[dict[str, Any]]


def vf_eval(built: BuiltDataset, model: Model, place: Path, *words: str) -> Run:
    """Export a dataset into an empty folder, and run the command of the package's README in it, with more words.

    There is no `uv`, and no way out but to the model's server: what asks for anything else meets a proxy that fails.
    """
    package, out = place / "package", place / "runs"
    write_package(built, package)
    with serving(model) as address, listening(Refusing) as proxy:
        named = {"MODEL": "served", "http://127.0.0.1:8000/v1": address, "runs/verifiers": str(out)}
        program, *flags = [named.get(word, word) for word in command_in(package / "README.md")]
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), proxy)
        done = subprocess.run(
            [Path(sys.executable).parent / program, *flags, *words],
            env={
                **os.environ,
                **proxies,
                "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": str(package),
                "HOME": str(place),
                "PATH": "/nowhere",
                "PRIME_API_KEY": "a-key-for-somebody-else",
            },
            capture_output=True,
            text=True,
            check=False,
            cwd=place,
        )
    assert (done.returncode, Refusing.asked) == (0, []), done.stdout + done.stderr
    assert model.problems == []
    assert model.keys == {"Bearer EMPTY"}
    (written,) = out.glob("*/traces.jsonl")
    traces = [trace for line in written.read_text().splitlines() for trace in json.loads(line)["traces"]]
    scores = {one["task"]["data"]["id"]: one["rewards"] for one in traces}
    return Run({i: {name: reward["score"] for name, reward in kept.items()} for i, kept in scores.items()}, traces)


def command_in(readme: Path) -> list[str]:
    """The words of the README's command."""
    (command,) = re.findall(r"^vf-eval (?:.*\\\n)*.*$", readme.read_text(), re.MULTILINE)
    return shlex.split(command.replace("\\\n", " "))


class Refusing(BaseHTTPRequestHandler):
    """A proxy that lets nothing through, and remembers what was asked."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        self.asked.append(self.requestline)
        self.send_error(502)

    do_CONNECT = do_POST = do_PUT = do_HEAD = do_GET


def episodes_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Full messages for each question: every third time the trace, else an attack, one after the other.

    The last one is said again as long as another one is wanted.
    """
    episodes = {}
    for number, row in enumerate(rows):
        task = find_task(row["task"])
        attacks = attacks_on(task)[::-1]  # those on episodes first
        text = attacks[number * 2 // 3 % len(attacks)].text(row) if number % 3 else right(row)
        said = [text] if isinstance(text, str) else text
        said = said + [said[-1]] * task.turns
        # OpenAI's protocol is UTF-8, which has no half of a pair; and what is sampled follows the opening words.
        episodes[row["id"]] = [
            r1_format.full_message(r1_format.completion_of(one.encode(errors="replace").decode())) for one in said
        ]
    return episodes


def right(row: Row) -> list[str]:
    """The messages of the trace; some of the first ones spell a special token, which must not go back to a model."""
    said = [*row.get("turns", ()), row["solution"]]
    return [one.replace("</think>", "<|im_end|></think>") if "7" in row["id"] else one for one in said]


def expected(rows: Sequence[Row], episodes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """What r1vlm gives for these messages, by the question's id."""
    return {
        row["id"]: score(task, replay(task, episodes[row["id"]], row), row)
        for row in rows
        for task in [find_task(row["task"])]
    }


def test_every_answer_gets_our_rewards(folder: Path, tmp_path: Path) -> None:
    built = open_dataset(folder)
    rows = list(built.questions("test"))
    episodes = episodes_of(rows)
    model = Model(rows, episodes)
    run = vf_eval(built, model, tmp_path)
    assert run.rewards == expected(rows, episodes)
    assert len(run.rewards) == QUESTIONS[built.spec.name]
    assert {row["task"] for row in rows} == {task.name for task in built.spec.tasks}
    played = {row["id"]: replay(find_task(row["task"]), episodes[row["id"]], row).messages for row in rows}
    assert model.turns == {name: len(messages) for name, messages in played.items()}
    assert set(model.turns.values()) >= MESSAGES[built.spec.name]
    for name in ("format", "correctness"):
        assert {rewards[name] for rewards in run.rewards.values()} == {0.0, 1.0}
    for one in run.traces:
        sampled = [node["message"] for node in one["nodes"] if node["sampled"]]
        texts = [r1_format.with_reasoning(said.get("reasoning_content"), said.get("content")) or "" for said in sampled]
        assert list(map(r1_format.full_message, texts)) == played[one["task"]["data"]["id"]]


@pytest.mark.parametrize("folder", ["digits"], indirect=True)
def test_another_split_and_one_task_of_another_folder(folder: Path, tmp_path: Path) -> None:
    built = open_dataset(shutil.copytree(folder, tmp_path / "moved"))
    shutil.rmtree(tmp_path / "moved")
    task = built.spec.tasks[0].name
    rows = list(open_dataset(folder).questions("validation", [task]).select(range(4)))
    episodes = {row["id"]: right(row) for row in rows}
    words = ["--env.taskset.split", "validation", "--env.taskset.only", task, "--env.taskset.data", str(folder)]
    (tmp_path / "run").mkdir()
    run = vf_eval(built, Model(rows, episodes), tmp_path / "run", *words, "-n", "4")
    assert run.rewards == expected(rows, episodes)


def test_the_code_of_a_file_goes_along(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "multi-turn.md").read_text()
    (tmp_path / "covered.py").write_text(page.partition('title="covered.py"\n')[2].partition("```")[0])
    with registry_restored():
        config = DatasetConfig(dataset=f"{tmp_path / 'covered.py'}:COVERED", size=40)
        built = open_dataset(build(config, tmp_path / "data", workers=1))
        rows = list(built.questions("test"))
        episodes = {row["id"]: right(row) for row in rows}
        (tmp_path / "run").mkdir()
        run = vf_eval(built, Model(rows, episodes), tmp_path / "run")
        assert run.rewards == expected(rows, episodes)
    assert all(rewards == {"format": 1.0, "correctness": 1.0} for rewards in run.rewards.values())

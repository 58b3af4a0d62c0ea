"""The page of `r1vlm-eval play`: what it asks and shows, what it refuses; and the page itself, in Chromium."""

from __future__ import annotations

import io
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import UserError
from evaluation.attention import heads
from evaluation.backends import transformers
from evaluation.backends.base import Sampling
from evaluation.model_source import ModelSource, open_model
from evaluation.play.command import PlayConfig, make_table
from evaluation.play.page import Table, open_page
from evaluation.play.player import Message, Played, Player, load_player
from evaluation.play.questions import own_image, question_source
from evaluation.play.render import render
from tests.processes import invoke, refused

BASE = Path(__file__).parents[2] / "training" / "builtin_models" / "base"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def model(random_checkpoint: Path) -> ModelSource:
    return open_model(str(random_checkpoint))


@pytest.fixture(scope="module")
def player(model: ModelSource) -> Player:
    """The model with random weights; heads are none of its things."""
    return Player(model, transformers.load(model.path, Sampling(12), 1), "no heads")


def png(size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["digits", "messages", "zoom"])
def test_a_seed_is_a_question_of_the_task(name: str, model: ModelSource) -> None:
    source = question_source(name, model)
    for task in source.spec.tasks:
        first, again, other = (source.question(task.name, seed) for seed in (1, 1, 2))
        assert first.row is not None
        assert first.row["task"] == task.name
        assert first.row["id"].split("-")[1:3] == ["1", "test"]
        assert first.prompt.messages == again.prompt.messages
        assert first.images[0].tobytes() == again.images[0].tobytes() != other.images[0].tobytes()


def test_the_recipe_of_the_checkpoint_is_drawn_from(digits_folder: Path, model: ModelSource) -> None:
    recorded = replace(model, record={"dataset": str(digits_folder)})
    assert question_source(None, recorded).spec.name == "digits"
    moved = replace(model, record={"dataset": "/nowhere", "tasks": ["word"]})
    assert question_source(None, moved).spec.name == "words"
    with pytest.raises(UserError, match="does not say which dataset it belongs to"):
        question_source(None, model)


def test_another_question_has_no_known_answer(player: Player) -> None:
    source = question_source("digits", player.model)
    question = source.question("sum", 0)
    assert question.asked(f" {question.text}\n") is question
    as_imported = replace(question, text=" Is it red?\r\nOr blue? ")  # a browser sends the line's end as \n
    assert as_imported.asked(" Is it red?\nOr blue? ") is as_imported
    own = question.asked("Is it red?")
    assert own.row is None
    assert "Is it red?" in own.prompt.messages[-1]["content"]
    *_, last = player.play(own)
    assert last.over
    assert last.rewards is None
    assert "nothing is judged" in render(player, last, source.spec, "checkpoint")


def test_the_answer_is_the_one_that_an_evaluation_gets(player: Player) -> None:
    question = question_source("digits", player.model).question("list", 3)
    *growing, last = player.play(question)
    texts = [played.messages[-1].text for played in growing]
    assert len(texts) == 12
    assert all(len(early) <= len(late) for early, late in pairwise(texts))
    ((_, wanted),) = player.backend.generate([question.prompt])
    assert last.messages[-1].text == wanted
    assert last.rewards == {"format": 0.0, "correctness": 0.0}


def test_a_task_of_several_turns_is_played_to_its_end(player: Player) -> None:
    question = question_source("check", player.model).question("list_checked", 0)
    *_, last = player.play(question)
    assert [message.seen is None for message in last.messages] == [False, True]
    assert len(last.images) == 2
    assert last.rewards is not None
    assert last.rewards["format"] == 0


def test_where_it_looks_is_known_for_every_token_of_the_text(model: ModelSource) -> None:
    player = load_player(model, None, 1, 24)
    source = question_source("digits", player.model)
    *_, last = player.play(source.question("sum", 0))
    html = render(player, last, source.spec, "checkpoint")
    shown = [text for text in last.messages[0].tokens if text]
    assert len(re.findall(r'class="token', html)) == len(re.findall("data-map=", html)) == len(shown) > 1
    assert str(player.heads) in html.replace("&#39;", "'")


def test_what_a_model_says_is_text(player: Player) -> None:
    source = question_source("digits", player.model)
    hostile = Played(source.question("sum", 0), [Message([HOSTILE, "\x1b[2J</think><answer>", HOSTILE, "</answer>"])])
    html = render(player, replace(hostile, over=True, rewards={"format": 1.0, "correctness": 0.0}), source.spec, "x")
    assert "<script" not in html
    assert html.count("<img") == 1
    assert "\x1b" not in html


def test_images_of_others_are_limited() -> None:
    assert own_image(png((30, 20))).size == (30, 20)
    with pytest.raises(UserError, match="more than 16777216 pixels"):
        own_image(png((1 << 13, (1 << 11) + 1)))
    with pytest.raises(UserError, match="can't be decoded"):
        own_image(b"GIF89a, or not")


def test_mistakes_get_a_sentence(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*words: Any) -> str:
        return refused(invoke("evaluation.cli", "play", *words))

    assert "there is no" in said(tmp_path / "nothing")
    (tmp_path / "old.jsonl").touch()
    assert "name a checkpoint folder" in said(tmp_path / "old.jsonl")
    assert "does not say which dataset" in said(random_checkpoint)
    assert "did you mean 'digits'" in said(random_checkpoint, "--data", "digit")
    assert "there is no" in said(random_checkpoint, "--baseline", tmp_path / "nothing", "--data", "digits")
    assert "--port" in said(random_checkpoint, "--port", "0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find_spec(name))
    assert "pip install 'r1vlm[eval,demo]'" in said(random_checkpoint, "--data", "digits")


needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="make test-play has Gradio")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def address(random_checkpoint: Path) -> Iterator[str]:
    """The page with two checkpoints, whose heads are chosen on a few examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads.choose_heads, "__defaults__", (8,))
        config = PlayConfig(str(random_checkpoint), baseline=str(BASE), data="digits", max_new_tokens=24)
        page = open_page(make_table(config), free_port())
    yield page.local_url
    page.close()


@needs_gradio
@pytest.mark.slow
def test_a_port_that_is_taken_gets_a_sentence(player: Player) -> None:
    table = Table(question_source("digits", player.model), [("checkpoint", player)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken: name another one with --port"):
            open_page(table, port)


@pytest.fixture(params=["wide", "phone, dark"])
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page as a user has it; the test fails where it logs, asks another host, or is wider than the screen."""
    from playwright.sync_api import sync_playwright

    kinds: dict[str, dict[str, Any]] = {
        "wide": {"viewport": {"width": 1200, "height": 900}},
        "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
    }
    logged: list[str] = []
    requested: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**kinds[request.param])
        page.set_default_timeout(180_000)  # on a machine that has much else to do
        page.on("console", lambda message: logged.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        page.wait_for_function("document.querySelectorAll('.player img').length == 2")
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        assert "taken" not in page.title()
        browser.close()
    assert logged == []
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []


def pixels(page: Any) -> list[int]:
    """The opacity of each cell of the overlay of the checkpoint."""
    canvas = "document.querySelector('#checkpoint canvas')"
    code = f"[...{canvas}.getContext('2d').getImageData(0, 0, {canvas}.width, {canvas}.height).data]"
    return [int(value) for value in page.evaluate(code)[3::4]]


def wait_for_answers(page: Any) -> None:
    page.wait_for_function("document.querySelectorAll('.player[data-over]').length == 2")


@needs_gradio
@needs_browser
@pytest.mark.slow
def test_a_question_is_asked_and_the_overlay_moves(page: Any) -> None:
    page.click("#ask")
    wait_for_answers(page)
    tokens = page.locator("#checkpoint .token[data-map]")
    maps = tokens.evaluate_all("all => all.map(one => one.dataset.map)")
    first, second = 0, next(i for i, one in enumerate(maps) if one != maps[0])
    seen = []
    for number in (first, second):
        tokens.nth(number).hover()
        seen.append(pixels(page))
        assert "of the attention is on the image" in page.inner_text("#checkpoint .where")
        assert page.locator("#checkpoint .token.now").count() == 1
    assert seen[0] != seen[1]
    assert len(seen[0]) == len(seen[1]) == 9  # 84 x 84 pixels
    assert max(seen[0]) == max(seen[1]) > 100
    tokens.nth(first).click()  # held
    page.hover("h1")
    assert pixels(page) == seen[0]
    assert page.locator("dt", has_text="correctness").count() == 2


@needs_gradio
@needs_browser
@pytest.mark.slow
def test_another_example_and_an_image_of_ones_own(page: Any, tmp_path: Path) -> None:
    before = page.get_attribute("#checkpoint img", "src")
    page.click("#another")
    page.wait_for_function(f"document.querySelector('#checkpoint img').src != {before!r}")
    assert page.input_value("#seed input") == "1"
    noise = np.random.default_rng(0).integers(256, size=(56, 84, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "own.png")
    drawn = page.get_attribute("#checkpoint img", "src")
    page.set_input_files("#upload input, input#upload, [id=upload] ~ input, input[type=file]", tmp_path / "own.png")
    page.wait_for_function(f"document.querySelector('#checkpoint img').src != {drawn!r}")
    page.fill("#question textarea", HOSTILE)
    page.click("#ask")
    wait_for_answers(page)
    assert page.locator(".verdict", has_text="nothing is judged").count() == 2
    page.locator("#checkpoint .token[data-map]").first.hover()
    assert len(pixels(page)) == 6

"""The page in a real browser: what a reader clicks and types does what it says, and nothing is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Call, read, solutions, write_lines

from datagen import r1_format

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
HOSTILE = (
    r1_format.OPENING + "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
)


@pytest.fixture
def run_folder(random_checkpoint: Path, digits_folder: Path, tmp_path: Path) -> Path:
    """A run of three checkpoints that have learned nothing."""
    for step in (10, 20, 30):
        folder = shutil.copytree(random_checkpoint, tmp_path / "run" / f"checkpoint-{step}")
        record = {"dataset": str(digits_folder), "stage": "grpo", "step": step, "run": str(tmp_path / "run")}
        (folder / "r1vlm.json").write_text(json.dumps(record))
    return tmp_path / "run"


@pytest.fixture
def report(run_folder: Path, questions: list[dict[str, Any]], tmp_path: Path, r1vlm_eval: Call) -> Path:
    """Before: solutions, every fifth hostile. After: what the model says, and the film of its run."""
    messages = solutions(questions)
    for question in questions[::5]:
        messages[question["id"]] = HOSTILE
    before = write_lines(tmp_path / "before.jsonl", messages)
    called = r1vlm_eval(
        *(run_folder / "checkpoint-30", "--baseline", before, "--out", tmp_path / "out", "--report"),
        *("--max-new-tokens", "4"),
    )
    assert called.code == 0, called.err
    return tmp_path / "out" / "report.html"


@pytest.fixture(params=["wide", "phone, dark"])
def page(report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report as a reader has it; the test fails where it logs, asks for anything, or is wider than the screen."""
    from playwright.sync_api import sync_playwright

    kinds: dict[str, dict[str, Any]] = {
        "wide": {"viewport": {"width": 1200, "height": 900}},
        "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
    }
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**kinds[request.param])
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        assert "taken" not in page.title()
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]


def shown(page: Any) -> int:
    """How many examples can be seen; the page says the same."""
    count = int(page.locator(".example:visible").count())
    assert page.inner_text("#shown") == f"{count} of {page.locator('.example').count()} examples"
    return count


def test_filters_and_search(page: Any, report: Path) -> None:
    comparison = read(report.parent / "comparison.json")
    everything = shown(page)
    assert everything == min(comparison["right_to_wrong"], 20) + comparison["n"] - comparison["right_to_wrong"]
    page.select_option("[data-filter=kind]", "wrong both times")
    assert shown(page) == comparison["n"] - comparison["right_to_wrong"] == 8
    page.select_option("[data-filter=task]", "sum")
    assert 0 < shown(page) < 8
    page.select_option("[data-filter=kind]", "")
    page.select_option("[data-filter=level]", "2")
    both = page.locator(".example:visible").evaluate_all("all => all.map(e => [e.dataset.task, e.dataset.level])")
    assert both
    assert all(pair == ["sum", "2"] for pair in both)
    page.press("body", "Escape")
    assert shown(page) == everything
    page.fill("#search", "<script>DOCUMENT")
    assert shown(page) == 8
    page.fill("#search", "no such words")
    assert shown(page) == 0


def test_keys(page: Any) -> None:
    page.press("body", "/")
    page.keyboard.type("sum of")
    assert page.input_value("#search") == "sum of"
    some = shown(page)
    assert 0 < some < page.locator(".example").count()
    page.keyboard.press("j")  # it is typed
    assert page.input_value("#search") == "sum ofj"
    page.keyboard.press("Escape")
    focused = "document.activeElement.querySelector('.soft')?.textContent"
    names = page.locator(".example .ask p.soft").all_inner_texts()
    places = []
    for key in ("j", "j", "j", "k"):
        page.keyboard.press(key)
        places.append(page.evaluate(focused))
    assert places == [names[0], names[1], names[2], names[1]]


def test_the_film_plays(page: Any) -> None:
    step = page.locator(".step:visible")
    assert step.inner_text() == "step 30: 0 of 8 right"
    page.focus("#frame")
    page.keyboard.press("ArrowLeft")
    assert step.inner_text() == "step 20: 0 of 8 right"
    assert page.locator(".take:visible").count() == 8
    page.click("#play")
    page.wait_for_selector("#play:has-text('Play')")
    assert step.inner_text() == "step 30: 0 of 8 right"
    page.click("#play")  # from the beginning again
    assert step.inner_text() == "step 10: 0 of 8 right"
    page.click("#play")
    assert page.inner_text("#play") == "Play"

"""The page in a real browser: what a reader clicks and types does what it says, and nothing is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format
from tests.evaluation.conftest import read, solutions, write_lines
from tests.processes import invoke

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
HOSTILE = (
    r1_format.OPENING + "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
)


@pytest.fixture(scope="module")
def run_folder(random_checkpoint: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three checkpoints that have learned nothing."""
    run = tmp_path_factory.mktemp("browser") / "run"
    for step in (10, 20, 30):
        folder = shutil.copytree(random_checkpoint, run / f"checkpoint-{step}")
        record = {"dataset": str(digits_folder), "stage": "grpo", "step": step, "run": str(run)}
        (folder / "r1vlm.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def report(run_folder: Path, questions: list[dict[str, Any]]) -> Path:
    """Before: solutions, every fifth hostile. After: what the model says, and the answers of its run's checkpoints."""
    messages = solutions(questions)
    for question in questions[::5]:
        messages[question["id"]] = HOSTILE
    before, out = write_lines(run_folder.parent / "before.jsonl", messages), run_folder.parent / "out"
    words = (run_folder / "checkpoint-30", "--baseline", before, "--report", "--max-new-tokens", "4", "--out", out)
    called = invoke("evaluation.cli", *words)
    assert called.returncode == 0, called.stderr
    return out / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["wide", "phone, dark"])
def page(report: Path, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The report as a reader has it; the test fails where it logs, asks for anything, or is wider than the screen."""
    kinds: dict[str, dict[str, Any]] = {
        "wide": {"viewport": {"width": 1200, "height": 900}},
        "phone, dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
    }
    logged: list[str] = []
    requested: list[str] = []
    page = browser.new_page(**kinds[request.param])
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert "taken" not in page.title()
    page.close()
    assert logged == []
    assert [url for url in requested if not url.startswith("data:")] == [report.as_uri()]


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

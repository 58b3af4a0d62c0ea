"""The page: nothing from the network, nothing a model can break, small enough to send."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen import r1_format as r1
from datagen.dataset.shards import make_questions
from datagen.tasks.judges import JUDGES, OWN, sample_rows
from evaluation.report.curves import LENGTHS, make_curve, read_series, smoothed
from evaluation.report.html import BYTES, EXAMPLES, LONG, differing, image_url, question_text, shortened, visible
from tests.evaluation.conftest import Call, solutions, write_lines

HOSTILE = (
    r1.OPENING + "<script>alert(1)</script><img src=http://x.y/z onerror=a()>\x00\x1b[31m\u202e\ud800</pre>{{ 7 * 7 }}"
)
VOID = {"meta", "img", "br", "input", "polyline"}


class Page(HTMLParser):
    """Collects the elements of a page, and checks that every one is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_a_question_is_shown_with_its_choices() -> None:
    question = dict(make_questions(OWN["own-choice"], sample_rows(JUDGES["choice"]))[0])
    listed = "Which bird?\nA. a robin\nB. a wren"
    question["prompt"] = r1.make_prompt(listed, "B")
    assert question_text(question) == listed


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    keys = ("rewards/format/mean", "rewards/correctness/mean")
    lines = [
        {"step": i, "reward": 0.5, "completions/mean_length": 20 + i, **dict.fromkeys(keys, i / 40)}
        for i in range(1, 41)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 41, "rew')
    return path


@pytest.fixture
def page(tmp_path: Path, questions: list[dict[str, Any]], digits_folder: Path, metrics: Path, r1vlm_eval: Call) -> str:
    """A comparison whose `before` is hostile everywhere."""
    before = write_lines(tmp_path / "before.jsonl", {q["id"]: HOSTILE + "x" * 10_000 for q in questions})
    after = write_lines(tmp_path / "after.jsonl", solutions(questions))
    called = r1vlm_eval(
        *(after, "--baseline", before, "--data", digits_folder, "--out", tmp_path / "out", "--report"),
        *("--metrics", metrics),
    )
    assert called.returncode == 0, called.stderr
    return (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def unmarked(page: str) -> str:
    """The page without the marks of the diff, which cut a text into pieces."""
    return re.sub("</?mark>", "", page)


def test_nothing_comes_from_elsewhere(page: str) -> None:
    elements = Page(page).elements
    tags = {tag for tag, _ in elements}
    assert not tags & {"link", "iframe", "object", "embed", "a", "base", "form"}
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)  # the one that the policy names
    assert script == files("evaluation.report").joinpath("report.js").read_text()
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{policy}'" in page
    sources = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == EXAMPLES
    assert all(source is not None and source.startswith("data:image/") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"https?://", unmarked(page).replace("http://x.y/z", ""))


def test_model_text_is_escaped_and_visible(page: str) -> None:
    page = unmarked(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩⟨U+D800⟩&lt;/pre&gt;" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    assert not any(name.startswith("on") for _, attributes in Page(page).elements for name in attributes)
    assert "more characters]" in page
    assert "x" * 2000 not in page


def test_what_a_reader_looks_for(page: str, questions: list[dict[str, Any]]) -> None:
    assert "<h1>Accuracy rose by 100.0 points, from 0.0% to 100.0%</h1>" in page
    assert "from wrong to right · 40" in page
    assert "from right to wrong · 0" in page
    assert f"the first {EXAMPLES} in the order of the dataset" in page
    assert page.count("<polyline") == 6  # two rewards and a length, as logged and smoothed
    assert "<mark>" in page
    assert "The training film" not in page  # there is no run
    assert questions[0]["id"] in page
    assert len(page.encode()) < 5_000_000


def test_without_a_baseline(
    tmp_path: Path, questions: list[dict[str, Any]], digits_folder: Path, r1vlm_eval: Call
) -> None:
    messages = {**solutions(questions), questions[3]["id"]: HOSTILE}
    path = write_lines(tmp_path / "c.jsonl", messages)
    assert r1vlm_eval(path, "--data", digits_folder, "--out", tmp_path / "out", "--report").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    Page(page)
    assert "97.5% of 40 questions are answered correctly" in page
    assert "wrong · 1</option>" in page
    assert "<mark>" not in page
    assert "Before" not in page
    assert "<polyline" not in page


@given(st.text(st.characters(codec=None)))
def test_visible_text_has_no_control_characters(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    shown.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\ufeff]", shown)


def test_plain_text_stays_as_it_is() -> None:
    assert visible("I see 1, ü, 数, 🙂.\n\t<b>") == "I see 1, ü, 数, 🙂.\n\t<b>"
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdef", 3) == "abc … [3 more characters]"


def test_what_is_cut_is_no_longer_than_it_may_be() -> None:
    assert len(shortened("\x00" * 1_000_000, LONG)) < LONG + 40


@given(st.text("ab <>\n", max_size=60), st.text("ab <>\n", max_size=60))
def test_a_diff_leaves_both_texts_whole(before: str, after: str) -> None:
    pieces = differing(before, after)
    assert ["".join(text for _, text in side) for side in pieces] == [before, after]
    same = ["".join(text for only, text in side if not only) for side in pieces]
    assert same[0] == same[1]


def test_a_diff_by_hand() -> None:
    before, after = differing("2 + 2 = 4.", "2 + 3 = 5.")
    assert before == [(False, "2 + "), (True, "2"), (False, " = "), (True, "4"), (False, ".")]
    assert after == [(False, "2 + "), (True, "3"), (False, " = "), (True, "5"), (False, ".")]


@pytest.mark.parametrize("size", [(84, 84), (2000, 1500), (3, 4000)])
def test_images_are_small(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert len(image_url(Image.fromarray(noise))) < BYTES * 1.4


def test_metrics_of_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    entries = [(1, 0.1), (2, 0.9), (3, 0.9), (2, 0.2), (3, 0.3)]
    lines = [json.dumps({"step": step, "rewards/correctness/mean": value}) for step, value in entries]
    other = ['{"step": 3, "rewards/format/mean": NaN}', '{"train_runtime": 3.0}', "[1]", '"step"', '{"step": 4, "re']
    path.write_text("\n".join([*lines, *other]))
    assert read_series(path) == {"correctness": [(1, 0.1), (2, 0.2), (3, 0.3)]}


def test_curve_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps({"step": step, "reward": step / 20}) for step in (10, 20, 30)))
    curve = make_curve(path)
    assert curve is not None
    assert (curve.first, curve.last, curve.top) == (10, 30, 1.5)
    assert [line.name for line in curve.lines] == ["reward"]
    assert curve.lines[0].raw == "0.00,66.67 50.00,33.33 100.00,0.00"


def test_a_curve_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps({"step": step, "completions/mean_length": 0}) for step in (1, 2)))
    curve = make_curve(path, LENGTHS, 0.0)
    assert curve is not None
    assert curve.lines[0].raw == "0.00,100.00 100.00,100.00"


def test_no_curve_of_one_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}')
    assert make_curve(tmp_path / "metrics.jsonl") is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_smoothing_stays_within_what_was_logged(values: list[float]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    smooth = smoothed(points)
    assert [step for step, _ in smooth] == [step for step, _ in points]
    assert all(min(values) - 1e-9 <= value <= max(values) + 1e-9 for _, value in smooth)

"""The look-ups of a report: each text that an answer reads off its image, with the attention on that image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datagen.interaction import Episode
from evaluation.attention import heads
from evaluation.config import EvalConfig, make_plan
from evaluation.generation import select_questions
from evaluation.metrics.scoring import score_episodes
from evaluation.report.html import render_look_ups
from evaluation.report.look_ups import COLOUR, find_look_ups, overlay
from evaluation.report.results import EvalResult
from tests.evaluation.conftest import solutions, write_lines

BASE = Path(__file__).parents[2] / "training" / "builtin_models" / "base"


def looked_up(checkpoint: Path, data: Path, out: Path) -> tuple[Any, EvalResult]:
    """The look-ups of a model that has said every solution."""
    plan = make_plan(EvalConfig(checkpoint=str(checkpoint), data=str(data), out=out))
    questions = select_questions(plan)
    episodes = [Episode([example["solution"]]) for example in questions.examples]
    scored = {"after": score_episodes(questions.examples, episodes)}
    result = EvalResult(out, questions.rows, 1, {}, scored, None)
    return find_look_ups(plan, questions, result), result


def test_every_digit_that_is_read_has_its_picture(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads.choose_heads, "__defaults__", (8,))  # examples: not how good they are is asked here
    looks, result = looked_up(BASE, digits_folder, tmp_path)
    assert len(looks.strips) == 6
    for strip in looks.strips:
        row = result.row(strip.index)
        assert [text for text, _ in strip.looks] == sorted(map(str, row["digits"]))
        for _, picture in strip.looks:
            assert picture.size == row["image"].size
            assert picture.tobytes() != row["image"].convert("RGB").tobytes()
    shown = render_look_ups(result, looks)["strips"]
    assert all(url.startswith("data:image/png;base64,") for strip in shown for _, url in strip["looks"])


def test_completions_have_none(digits_folder: Path, questions: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "completions.jsonl", solutions(questions))
    assert looked_up(path, digits_folder, tmp_path / "out")[0] is None


def test_the_overlay_by_hand() -> None:
    cells = np.array([[0, 0.5], [1, 0]], dtype=np.float32)
    drawn = np.asarray(overlay(Image.new("RGB", (4, 4), "white"), cells)).astype(int)
    assert (drawn[:2, :2] == 255).all()
    assert (drawn[2:, 2:] == 255).all()
    strong, weak = drawn[3, 0], drawn[0, 3]
    np.testing.assert_allclose(strong, 255 - 0.6 * (255 - np.array(COLOUR)), atol=2)
    np.testing.assert_allclose(weak, 255 - 0.3 * (255 - np.array(COLOUR)), atol=2)

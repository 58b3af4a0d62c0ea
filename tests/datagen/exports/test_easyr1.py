"""The exported questions in the real EasyR1, which is on no index: EASYR1 names a checkout of it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from datagen.dataset.reader import open_dataset
from datagen.export.easyr1 import export
from datagen.r1_format import OPENING
from tests.datagen.exports.answers import BASE, answered, run_in, worth


@pytest.mark.slow
@pytest.mark.skipif("EASYR1" not in os.environ, reason="no checkout of EasyR1: EASYR1=FOLDER make test-exports")
def test_it_asks_what_we_ask_and_judges_as_we_judge(digits_folder: Path, tmp_path: Path) -> None:
    built = open_dataset(digits_folder)
    export(built, tmp_path)
    answers = answered(digits_folder, "train")
    (tmp_path / "answers.json").write_text(json.dumps([(row["id"], text) for row, text in answers]))
    script, checkout = Path(__file__).with_name("in_easyr1.py"), os.environ["EASYR1"]
    words = [script, checkout, tmp_path, BASE, tmp_path / "answers.json", tmp_path / "out.json"]
    run_in("verl", *words, cwd=tmp_path)
    found = json.loads((tmp_path / "out.json").read_text())
    rows = built.questions("train")
    assert list(found["prompts"]) == list(rows["id"])
    for row in rows:
        prompt = found["prompts"][row["id"]]
        assert base64.b64decode(prompt["pixels"]) == row["image"].tobytes()
        assert tuple(prompt["size"]) == row["image"].size
        assert f"<|image_pad|><|vision_end|>{row['prompt'][1]['content']}" in prompt["text"]
        assert prompt["text"].endswith(OPENING)
    for rewards, one in zip(worth(answers), found["rewards"], strict=True):
        assert one == {**rewards, "overall": sum(rewards.values()), "total": sum(rewards.values())}

"""The exported questions in the real verl; `make test-exports` installs it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from datagen.dataset.reader import open_dataset
from datagen.export.verl import export
from datagen.r1_format import OPENING
from tests.datagen.exports.answers import BASE, answered, run_in, worth


@pytest.mark.slow
def test_it_asks_what_we_ask_and_judges_as_we_judge(digits_folder: Path, tmp_path: Path) -> None:
    built = open_dataset(digits_folder)
    export(built, tmp_path)
    answers = answered(digits_folder, "train")
    (tmp_path / "answers.json").write_text(json.dumps([(row["id"], text) for row, text in answers]))
    script = Path(__file__).with_name("in_verl.py")
    run_in("verl", script, tmp_path, BASE, tmp_path / "answers.json", tmp_path / "out.json", cwd=tmp_path)
    found = json.loads((tmp_path / "out.json").read_text())
    rows = built.questions("train")
    assert found["names"] == list(rows["id"])
    for row, prompt in zip(rows, found["prompts"], strict=True):
        system, user = row["prompt"]
        assert base64.b64decode(prompt["pixels"]) == row["image"].tobytes()
        assert (prompt["mode"], tuple(prompt["size"])) == ("RGB", row["image"].size)
        assert f"<|vision_end|>{user['content']}" in prompt["text"]
        assert system["content"] in prompt["text"]
        assert prompt["text"].endswith(OPENING)
    for rewards, one in zip(worth(answers), found["rewards"], strict=True):
        assert one["reward_score"] == sum(rewards.values())
        assert one["reward_extra_info"] == {**rewards, "score": sum(rewards.values())}

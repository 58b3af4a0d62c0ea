"""The exported questions in the real ms-swift; `make test-exports` installs it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from datagen.dataset.reader import open_dataset
from datagen.export.ms_swift import export
from datagen.r1_format import OPENING
from tests.datagen.exports.answers import BASE, answered, run_in, worth


@pytest.mark.slow
def test_it_trains_asks_what_we_ask_and_judges_as_we_judge(digits_folder: Path, tmp_path: Path) -> None:
    built = open_dataset(digits_folder)
    export(built, tmp_path)
    answers = answered(digits_folder, "train")
    (tmp_path / "answers.json").write_text(json.dumps([(row["id"], text) for row, text in answers]))
    run_in(
        "ms-swift",
        *(Path(__file__).with_name("in_ms_swift.py"), tmp_path, BASE, tmp_path / "answers.json", tmp_path / "out.json"),
        cwd=tmp_path,
        MODELSCOPE_CACHE=str(tmp_path / "cache"),
    )
    found = json.loads((tmp_path / "out.json").read_text())
    rows = built.questions("train")
    assert set(found["prompts"]) == set(rows["id"])
    for row in rows:
        prompt = found["prompts"][row["id"]]
        system, user = row["prompt"]
        assert base64.b64decode(prompt["pixels"]) == row["image"].tobytes()
        assert (prompt["mode"], tuple(prompt["size"])) == ("RGB", row["image"].size)
        assert f"<|image_pad|><|vision_end|>{user['content']}" in prompt["text"]
        assert system["content"] in prompt["text"]
        assert prompt["text"].endswith(OPENING)
    assert found["reward_names"] == ["format", "correctness"]
    got = [dict(zip(found["reward_names"], rewards, strict=True)) for rewards in found["rewards"]]
    assert got == worth(answers)

"""The exported tasks in the real inspect_ai, which asks a server; `make test-exports` installs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.export.inspect import export
from evaluation.backends.base import Prompt
from tests.datagen.exports.answers import answered, run_in, worth
from tests.evaluation.server import playing


def response(text: str) -> bytes:
    """What a server of OpenAI's protocol sends."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


@pytest.mark.slow
def test_it_asks_what_we_ask_and_judges_as_we_judge(tmp_path: Path) -> None:
    built = open_dataset(build(DatasetConfig(dataset="digits", size=1000, seed=3), tmp_path / "data", workers=1))
    export(built, tmp_path / "tasks")
    answers = answered(built.folder, "test")
    assert len({row["id"] for row, _ in answers}) == len(answers) == 200
    texts = {(row["prompt"][1]["content"], row["image"].tobytes()): text for row, text in answers}
    system = answers[0][0]["prompt"][0]

    def say(prompt: Prompt) -> bytes:
        assert prompt.messages[0] == system
        assert prompt.shown[0].mode == "RGB"
        return response(texts[prompt.messages[1]["content"], prompt.shown[0].tobytes()])

    with playing(say) as server:
        words = f"--model openai-api/r1vlm/served --model-base-url {server.address} --log-format json --display none"
        run_in(
            "inspect",
            *("-m", "inspect_ai", "eval", "r1vlm_digits.py", *words.split(), "--log-dir", tmp_path / "logs"),
            cwd=tmp_path / "tasks",
            R1VLM_API_KEY="none",
        )
    logs = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "logs").glob("*.json")]
    assert {log["eval"]["task"] for log in logs} == {"r1vlm_digits_list", "r1vlm_digits_sum"}
    got = {sample["id"]: sample["scores"]["rewards"]["value"] for log in logs for sample in log["samples"]}
    ours = {row["id"]: rewards for (row, _), rewards in zip(answers, worth(answers), strict=True)}
    assert got == ours
    for log in logs:
        means = {one["name"]: one["metrics"]["mean"]["value"] for one in log["results"]["scores"]}
        mine = [ours[sample["id"]] for sample in log["samples"]]
        assert means == pytest.approx({name: sum(one[name] for one in mine) / len(mine) for name in mine[0]})

"""The forms in which servers that speak OpenAI's protocol give an answer: each is the same text for the rewards."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from datagen.r1_format import OPENING
from tests.evaluation.conftest import Call
from tests.loopback import listening

ANSWER = "\n<answer>1</answer>"
WHOLE = f"I see 1.</think>{ANSWER}"
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "one text": ({"content": WHOLE}, WHOLE),
    "parts": ({"content": [{"type": "text", "text": "I see 1.</think>"}, {"type": "text", "text": ANSWER}]}, WHOLE),
    "reasoning in a field of its own": ({"reasoning": "I see 1.", "content": ANSWER}, WHOLE),
    "the older name of that field": ({"reasoning_content": "I see 1.", "content": ANSWER}, WHOLE),
    "cut off while it thinks": ({"reasoning": "I see", "content": None}, "I see"),
    "empty fields": ({"reasoning": None, "reasoning_content": "", "content": WHOLE}, WHOLE),
    "reasoning in parts": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "I see 1."}]},
                {"type": "text", "text": ANSWER},
            ]
        },
        WHOLE,
    ),
    "a refusal": ({"content": None, "refusal": "No."}, "No."),
    "nothing more to say": ({"content": ""}, ""),
}


def answering(message: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    """A server that has one model, and one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.reply({"data": [{"id": "served"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply({"choices": [{"message": {"role": "assistant", **message}}]})

        def reply(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def ask(message: dict[str, Any], r1vlm_eval: Call, data: Path, out: Path) -> Any:
    with listening(answering(message)) as address:
        words = ("--endpoint", f"{address}/v1", "--data", data, "--limit", 2, "--out", out)
        return r1vlm_eval("served", *words)


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_the_same_text_in_whatever_form_it_comes(
    form: str, r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    message, text = FORMS[form]
    assert ask(message, r1vlm_eval, digits_folder, tmp_path / "out").returncode == 0
    lines = (tmp_path / "out" / "completions.jsonl").read_text().splitlines()
    assert [json.loads(line)["completion"] for line in lines] == [OPENING + text] * 2


@pytest.mark.parametrize("content", [17, {"text": WHOLE}, [{"type": "text"}], ["text"], None, []])
def test_an_answer_that_is_not_understood_is_neither_judged_nor_kept(
    content: Any, r1vlm_eval: Call, digits_folder: Path, tmp_path: Path
) -> None:
    done = ask({"content": content}, r1vlm_eval, digits_folder, tmp_path / "out")
    assert done.returncode == 2
    said = "answers without any text" if not content else "does not answer as OpenAI's protocol has it"
    assert said in done.stderr.splitlines()[-1]  # behind the progress bar
    assert not (tmp_path / "out" / "results.json").exists()
    kept = list((tmp_path / "answers").rglob("*.jsonl"))
    assert not any("completion" in file.read_text() for file in kept)

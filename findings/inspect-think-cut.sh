#!/usr/bin/env bash
# One would guess that `state.output.completion`, which scorers judge, is the text that the server sent.
# In fact inspect_ai's client of OpenAI's protocol takes the first <think> block out of the text, wherever it stands and
# without being asked to: an answer with a second block of thinking behind it comes to the scorer without that. Where
# nothing but the block was said, the text is given whole after all.
# inspect_ai 0.3.285, openai 3.57.0. It matters to people who train vision-language models because a completion that
# training gave no reward for its format is well-formed in the evaluation, and because the first block of a model that
# opens its thinking itself is missing from what is judged.
# No upstream issue found; inspect_ai does it to keep the reasoning of DeepSeek-R1 out of answers.
# Seen here: exactly the completions below, asked of a server on loopback.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq inspect-ai==0.3.285 openai==3.57.0
cd "$T"
R1_API_KEY=none "$T/venv/bin/python" - <<'PY'
import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from inspect_ai.model import get_model

CASES = [  # what the server sends, what a scorer gets
    ("7</think><answer>7</answer>", "7</think><answer>7</answer>"),
    ("7</think><answer>7</answer> <think>or 8</think>", "7</think><answer>7</answer>"),
    ("<think>7</think><answer>7</answer>", "<answer>7</answer>"),
    ("<think>7</think>", "<think>7</think>"),
]
said = iter([text for text, _ in CASES])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": next(said)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


async def ask():
    model = get_model("openai-api/r1/m", base_url=f"http://127.0.0.1:{server.server_port}/v1")
    return [(await model.generate("question")).completion for _ in CASES]


wrong = []
for (sent, described), seen in zip(CASES, asyncio.run(ask())):
    print(f"sent {sent!r}: the scorer gets {seen!r}")
    if seen != described:
        wrong.append(sent)
if wrong:
    sys.exit(f"The behaviour differs from the description for {wrong}.")
PY

#!/usr/bin/env bash
# One would guess that an evaluation whose questions the server has refused fails, or counts them as wrong.
# In fact vf-eval (verifiers 0.4.0) ends with status 0 where every question was refused, and the reward that it shows
# first is the mean over those that were answered; the one that counts the others as 0 stands behind it in parentheses.
# It matters to people who train vision-language models because it is images that a server refuses: too many for its
# limit, or too large for its context. A model that is asked the easy half alone looks better than it is.
# No upstream issue found. Seen here: reward 1.00 (0.50) where half was refused, and status 0 for half and for all.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq verifiers==0.4.0
cd "$T"
cat > ten_questions.py <<'PY'
import verifiers.v1 as vf
from openai import AsyncOpenAI

__all__ = ["TenQuestions", "AskOnce"]


class Question(vf.Task[vf.TaskData]):
    @vf.reward
    async def answered(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == "yes")


class TenQuestions(vf.Taskset[Question, vf.TasksetConfig]):
    def load(self):
        for number in range(10):
            yield Question(vf.TaskData(prompt=f"Question {number}?"), self.config.task)


class AskOnce(vf.Harness[vf.HarnessConfig]):
    """Asks in this process; verifiers' own start a program that fetches packages."""

    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data):
        async with AsyncOpenAI(base_url=endpoint, api_key=secret) as client:
            asked = [{"role": "user", "content": data.prompt}]
            await client.chat.completions.create(model=ctx.model, messages=asked)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")
PY
cat > server.py <<'PY'
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

venv, refused = sys.argv[1], int(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        served = int(re.search(rb"Question (\d)", body)[1]) >= refused
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        sent = json.dumps(answer if served else {"error": {"message": "too many images"}}).encode()
        self.send_response(200 if served else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/v1"
flags = ["--client.base-url", address, "--client.api-key-var", "NONE", "--env.agent.runtime.type", "subprocess"]
done = subprocess.run(
    [f"{venv}/bin/vf-eval", "ten_questions", "--model", "m", *flags, "--no-push"], capture_output=True, text=True
)
shown = re.search(r"reward (\S+(?: \(\S+\))?) +· +err (\S+)", done.stdout)
print(f"status {done.returncode}, reward {shown[1]}, err {shown[2]}" if shown else done.stdout + done.stderr)
PY
check() {
  seen=$(HOME="$T" PYTHONPATH="$T" "$T/venv/bin/python" server.py "$T/venv" "$1")
  echo "$1 of 10 refused: $seen"
  if [ "$seen" != "$2" ]; then
    echo "The behaviour differs from the description: expected '$2'."
    exit 1
  fi
}
check 0 "status 0, reward 1.00, err 0.00"
check 5 "status 0, reward 1.00 (0.50), err 0.50"
check 10 "status 0, reward —, err 1.00"

#!/usr/bin/env bash
# One would guess that inspect_ai's exact() finds the answer "A" right where the target is "A".
# In fact it never does: articles are removed before the comparison, "A" is one, and two empty texts do not count as
# equal. B, C and D are found. f1() gives A 0.0 and B 1.0. The minus sign goes with the punctuation: "-5" is exactly
# "5". inspect_ai 0.3.285; choice() and match() have other rules.
# It matters to people who evaluate multiple choice because each question whose answer is A is wrong for every model: a
# quarter of the points where answers are shuffled, and a sign is never checked. No upstream issue found.
# Seen here: exact() finds B for B, C for C and -5 for 5, and not A for A.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq inspect_ai==0.3.285
cd "$T"
"$T/venv/bin/python" - <<'PY'
import asyncio
import sys

from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import Target, exact, f1
from inspect_ai.solver import TaskState


def value(scorer, answer, target):
    output = ModelOutput.from_content("mockllm/model", answer)
    state = TaskState(ModelName("mockllm/model"), 1, 1, "question", [], output=output)
    return asyncio.run(scorer(state, Target(target))).value


cases = [("A", "A"), ("B", "B"), ("C", "C"), ("-5", "5"), ("1.5", "15")]
seen = {f"{answer} for {target}": (value(exact(), answer, target), value(f1(), answer, target)) for answer, target in cases}
print(seen)
if list(seen.values()) != [("I", 0.0), ("C", 1.0), ("C", 1.0), ("C", 1.0), ("I", 0.0)]:
    sys.exit("The behaviour differs from the description: such answers are judged in another way.")
PY

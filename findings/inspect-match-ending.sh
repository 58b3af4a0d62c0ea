#!/usr/bin/env bash
# One would guess that inspect_ai's default scorer `match()` compares the answer, or at least its last word.
# In fact it asks whether the text *ends with* the target, without a word boundary and without regard to case: the
# target `A` of a multiple-choice question is met by "I have no idea", and `5` by "about 145". With numeric=True the
# word counts as a whole, but "5%" and an answer in tags then never match, and "- 5" matches 5.
# inspect_ai 0.3.285. It matters to people who train vision-language models because refusals of a weak checkpoint
# score as right answers on just those questions whose letter is A, and the gain after training looks smaller.
# No upstream issue found. Seen here: exactly the verdicts below, asked through the scorer itself.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq inspect-ai==0.3.285
cd "$T"
"$T/venv/bin/python" - <<'PY'
import asyncio
import sys

from inspect_ai.model import ModelName, ModelOutput
from inspect_ai.scorer import Target, match
from inspect_ai.solver import TaskState


def verdict(scorer, text, target):
    output = ModelOutput.from_content("mockllm/model", text)
    state = TaskState(ModelName("mockllm/model"), 1, 1, "question", [], output=output)
    return asyncio.run(scorer(state, Target(target))).value == "C"


cases = [  # scorer's options, answer, target, right?
    ({}, "I have no idea.", "A", True),
    ({}, "I have no clue.", "A", False),
    ({}, "about 145", "5", True),
    ({"numeric": True}, "about 145", "5", False),
    ({"numeric": True}, "about 5", "5", True),
    ({"numeric": True}, "about 5%", "5", False),
    ({"numeric": True}, "<answer>5</answer>", "5", False),
    ({"numeric": True}, "- 5", "5", True),
    ({"numeric": True}, "- 5", "-5", False),
]
wrong = []
for options, text, target, described in cases:
    seen = verdict(match(**options), text, target)
    print(f"match({options}) of {text!r} with target {target!r}: {'right' if seen else 'wrong'}")
    if seen != described:
        wrong.append(text)
if wrong:
    sys.exit(f"The behaviour differs from the description for {wrong}.")
PY

#!/usr/bin/env bash
# One would guess that a verifier made for language models finds the 7 in `<answer>7</answer>`.
# In fact math-verify wants a number to stand free: between tags without spaces it is not seen, and the last free
# number of the thinking is taken for the answer, so that the right answer fails and a wrong one passes.
# A minus sign set off by a space is lost, and of a time of day only the hour is compared.
# math-verify 0.9.0. It matters to people who train vision-language models because <think>/<answer> is the format of
# R1-like recipes for counting and reading clocks: the reward follows the wrong part of the text, without an error.
# The way out: cut the answer out of its tags and compare plain answers without it. Upstream has near relatives, such
# as Math-Verify issue 76 (stars around a number); seen here: exactly the verdicts below.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq math-verify==0.9.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from math_verify import parse, verify

thought = "<think>There are 3 cats and 4 dogs.</think>\n"
cases = [  # right answer, what the model wrote, math-verify's verdict as described
    ("7", "<answer>7</answer>", False),
    ("7", "<answer> 7 </answer>", True),
    ("7", thought + "<answer>7</answer>", False),
    ("4", thought + "<answer>7</answer>", True),
    ("5", "- 5", True),
    ("-5", "- 5", False),
    ("14:30", "14:59", True),
]
wrong = []
for gold, answer, described in cases:
    seen = bool(verify(parse(gold), parse(answer)))
    print(f"right answer {gold!r}: {answer!r} counted as {'right' if seen else 'wrong'}, read as {parse(answer)}")
    if seen != described:
        wrong.append(answer)
if wrong:
    sys.exit(f"The behaviour differs from the description for {wrong}.")
PY

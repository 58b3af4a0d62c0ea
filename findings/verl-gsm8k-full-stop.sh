#!/usr/bin/env bash
# One would guess that verl's reward for GSM8K reads 72 in "#### 72." as in "#### 72".
# In fact the full stop becomes part of the number, and the answer earns 0. So it does with method="flexible", which
# takes the last number of the text: "The answer is 72." earns 0, and so does "1,000" for 1000. verl 0.9.1,
# verl/utils/reward_score/gsm8k.py. Upstream has other losses of that extraction (issue 2150, pull request 7274), not
# this one.
# It matters to people who train on numbers with verl because a sentence ends with a full stop: a right answer is
# punished for it, and the curve shows a model that learns to leave it out.
# Seen here: 1.0 without the full stop, 0.0 with it, by either method.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq --no-deps verl==0.9.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import importlib.util
import sys
from importlib.metadata import distribution

path = distribution("verl").locate_file("verl/utils/reward_score/gsm8k.py")  # a module without imports of its own
spec = importlib.util.spec_from_file_location("gsm8k", path)
gsm8k = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gsm8k)
cases = [("#### 72", "72", "strict"), ("#### 72.", "72", "strict"), ("#### $72", "72", "strict")]
cases += [("It is 72", "72", "flexible"), ("It is 72.", "72", "flexible"), ("It is 1,000", "1000", "flexible")]
seen = [float(gsm8k.compute_score(text, right, method)) for text, right, method in cases]
print({text: score for (text, *_), score in zip(cases, seen)})
if seen != [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]:
    sys.exit("The behaviour differs from the description: such answers are scored in another way.")
PY

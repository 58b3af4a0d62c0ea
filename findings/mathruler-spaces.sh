#!/usr/bin/env bash
# One would guess that mathruler's grade_answer tells a list of digits from a number.
# In fact spaces are dropped: "3 4" equals 34, and "1 2 3" equals 123. In turn 4/2 is not 2, 2^3 is not 8 and 50% is
# 50, not 0.5. mathruler 0.1.0, which verl's reward for geometry3k and EasyR1's for mathematics use.
# It matters to people who train on their own task with those rewards because an answer that lists what was seen is
# right where its digits make the number, and a right number that is written as a quotient is wrong.
# No upstream issue found.
# Seen here: True, True, False, False, True, False.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq mathruler==0.1.0 pylatexenc==2.11 sympy==1.14.0 tqdm==4.70.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from mathruler.grader import grade_answer

pairs = (("3 4", "34"), ("1 2 3", "123"), ("4/2", "2"), ("2^3", "8"), ("50%", "50"), ("50%", "0.5"))
seen = {f"{given} for {right}": grade_answer(given, right) for given, right in pairs}
print(seen)
if list(seen.values()) != [True, True, False, False, True, False]:
    sys.exit("The behaviour differs from the description: such answers are judged in another way.")
PY

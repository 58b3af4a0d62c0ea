#!/usr/bin/env bash
# One would guess that a verifier of answers, given the word `cat` as the right answer, refuses `act`.
# In fact math-verify reads a word in dollars as a product of letters, products commute, and every anagram is right;
# a list without brackets is read as a set, so that order and repeated items do not count either.
# math-verify 0.9.0, on which TRL's accuracy_reward rests (there the completion only needs \boxed).
# It matters to people who train vision-language models because answers read from pictures are words, and lists in
# reading order: a model that shuffles what it read is paid in full. No upstream issue found.
# Seen here: `act` is right for `cat`, `1, 2, 3` is right for `3, 1, 2`, `3, 1` is right for `3, 1, 1`.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq math-verify==0.9.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from math_verify import parse, verify

expected = {
    ("$cat$", r"\boxed{act}"): True,
    ("$listen$", r"\boxed{silent}"): True,
    ("$cat$", r"\boxed{car}"): False,
    ("$3, 1, 2$", r"\boxed{1, 2, 3}"): True,
    ("$3, 1, 1$", r"\boxed{3, 1}"): True,
    ("$3, 1, 2$", r"\boxed{3, 1, 4}"): False,
    ("$[3, 1, 2]$", r"\boxed{[1, 2, 3]}"): False,
}
wrong = []
for (gold, answer), described in expected.items():
    seen = bool(verify(parse(gold), parse(answer)))
    print(f"right answer {gold:12} given {answer:18} counted as {'right' if seen else 'wrong'}  {parse(gold)}")
    if seen != described:
        wrong.append(answer)
if wrong:
    sys.exit(f"The behaviour differs from the description for {wrong}.")
PY

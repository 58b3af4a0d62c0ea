#!/usr/bin/env bash
# One would guess that math-verify reads $12\,345$, a number with LaTeX's thin space between its thousands, as 12345.
# In fact it adds the two: 357. So it does with a plain space, $12 345$. It takes all neighbours for a
# whole number with a fraction behind it: "3 4" is 7. The same text outside of $ $ is read as 12345, and $12{,}345$ and
# $12,345$ are. math-verify 0.9.0 with latex2sympy2_extended 1.11.0.
# It matters to people who use it as a reward because \, is the separator of thousands that SI and many textbooks ask
# for: a right answer so written earns 0, and the answer 357 is right where the reference is written so. A list of
# answers with spaces between them is judged by its sum.
# Upstream: no issue found for the sum.
# Seen here: 357 for $12\,345$, verify() False against 12345 and True against 357.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 \
    antlr4-python3-runtime==4.13.2
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from math_verify import parse, verify

texts = [r"$12\,345$", "$12 345$", "$3 4$", "$12{,}345$", "$12,345$", "12 345"]
read = {text: parse(text)[0] for text in texts}
print(", ".join(f"{text} is {number}" for text, number in read.items()))
right = verify(parse("$12345$"), parse(r"$12\,345$"))
wrong = verify(parse(r"$12\,345$"), parse("$357$"))
print(rf"$12\,345$ where 12345 is right: {right}; 357 where $12\,345$ is right: {wrong}")
if [int(number) for number in read.values()] != [357, 357, 7, 12345, 12345, 12345] or right or not wrong:
    sys.exit("The behaviour differs from the description.")
PY

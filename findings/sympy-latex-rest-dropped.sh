#!/usr/bin/env bash
# One would guess that SymPy's parse_latex reads "3, 4" as two numbers, or raises an error.
# In fact it returns what it has read when it meets something that it does not expect: "3, 4" is 3. A space is no such
# thing: "3 4" is 34, and "7 apples" is 7*a*p*p*l*e*s. Only strict=True, which is not the default, raises an error for
# "3, 4". SymPy 1.14.0, antlr4-python3-runtime 4.11.1. Rewards for mathematics are built on it: MathORM of ms-swift 4.6
# calls it so.
# It matters to people who judge answers with it because a list of which only the first number is right is right, and
# so is a list with one number too many. No upstream issue found.
# Seen here: 3, 34, and an error with strict=True.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq sympy==1.14.0 antlr4-python3-runtime==4.11.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from sympy.parsing.latex import LaTeXParsingError, parse_latex

seen = [str(parse_latex(text)) for text in ("3, 4", "3, 5", "3 4")]
try:
    seen.append(str(parse_latex("3, 4", strict=True)))
except LaTeXParsingError:
    seen.append("an error")
print(seen)
if seen != ["3", "3", "34", "an error"]:
    sys.exit("The behaviour differs from the description: lists are read in another way.")
PY

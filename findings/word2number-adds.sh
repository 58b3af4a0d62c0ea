#!/usr/bin/env bash
# One would guess that word2number reads "three four five" as 345, or refuses it, and "minus three" as -3.
# In fact two such words are added, and of three the first two are multiplied: "three four" is 7, "three four five" is 17,
# "nineteen eighty four" is 19 * 80 + 4. Words that are no number are left out: "minus three" is 3, "no one" is 1.
# word2number 1.1.
# It matters to people who judge what a model says because digits that were read in a row, years and negative numbers
# come back as other numbers, and an answer that names none comes back as one. No upstream issue found.
# Seen here: 7, 17, 1524, 3 and 1.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq word2number==1.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from word2number.w2n import word_to_num

texts = ("three four", "three four five", "nineteen eighty four", "minus three", "no one")
seen = {text: word_to_num(text) for text in texts}
print(seen)
if list(seen.values()) != [7, 17, 1524, 3, 1]:
    sys.exit("The behaviour differs from the description: such texts are read in another way.")
PY

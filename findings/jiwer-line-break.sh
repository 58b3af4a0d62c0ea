#!/usr/bin/env bash
# One would guess that jiwer's word error rate parts words at spaces and at line breaks, as str.split does.
# In fact it parts them at spaces alone, after each run of two or more white spaces has become one space. So a single
# line break joins the last word of a line to the first of the next, and an empty line parts them. The same words, all
# read rightly but on one line, have an error rate of 1.0, as if nothing had been read. Compared with itself the page
# has 0.0, so that no simple test shows it. jiwer 4.0.0 with its defaults.
# It matters to people who measure reading (OCR) with it because pages and receipts have lines, and models often write
# them in a row. Way out: " ".join(text.split()) for both texts.
# Upstream: pull request 129 (closed) has it for tabs and non-breaking spaces.
# Seen here: 1.0 on one line, 0.0 where empty lines are between, 4 words where there are 6.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq jiwer==4.0.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

import jiwer

page = "TOTAL 12.50\nCASH 20.00\nCHANGE 7.50"
row = page.replace("\n", " ")
same, one_line, nothing = jiwer.wer(page, page), jiwer.wer(page, row), jiwer.wer(page, "")
empty_lines, split = jiwer.wer(page.replace("\n", "\n\n"), row), jiwer.wer(" ".join(page.split()), row)
words = jiwer.process_words(page, row).references[0]
print(f"with itself {same}, on one line {one_line}, nothing read {nothing}, empty lines between {empty_lines}, "
      f"split first {split}; words: {words}")
if not (same == 0 and one_line == 1 and nothing == 1 and empty_lines == 0 and split == 0 and len(words) == 4):
    sys.exit("The behaviour differs from the description: a line break parts words.")
PY

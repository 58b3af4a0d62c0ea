#!/usr/bin/env bash
# One would guess that sacrebleu takes one list of references for each answer, as NLTK and torchmetrics do, or says
# that the shapes do not match. In fact it wants one list for each *set* of references. Given two answers and
# [["reference 1"], ["reference 2"]], it takes both for references of the first answer and leaves out the second:
# BLEU and chrF are 100 where the second answer is nonsense. There is no error and no warning. sacrebleu 2.6.0,
# corpus_bleu, corpus_chrf and corpus_ter.
# It matters to people who score captions or transcripts because their data has a list of references for each image.
# The score of the whole evaluation is then that of its first row, and it changes with the order of the rows.
# Upstream: issues 272 and 275 ask about it; ragas issue 2888 (open) is a library that calls it so.
# Seen here: 100 and 100 in that shape, 7 with the rows swapped, 46 in the right shape.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq sacrebleu==2.6.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

import sacrebleu

answers = ["the cat sat on the mat", "nothing of the kind here at all"]
references = [["the cat sat on the mat"], ["a dog runs in the park"]]  # one list for each answer
bleu, chrf = (f(answers, references).score for f in (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf))
errors = sacrebleu.corpus_ter(answers, references).score
swapped = sacrebleu.corpus_bleu(answers[::-1], references[::-1]).score
right = sacrebleu.corpus_bleu(answers, [[row[0] for row in references]]).score
print(f"BLEU {bleu:.0f}, chrF {chrf:.0f}, TER {errors:.0f}; rows swapped: BLEU {swapped:.0f}; right shape: {right:.0f}")
if not (round(bleu) == 100 and round(chrf) == 100 and errors == 0 and swapped < 10 and 40 < right < 50):
    sys.exit("The behaviour differs from the description: more than the first answer is scored.")
PY

#!/usr/bin/env bash
# One would guess that McNemar's test, asked about two models that agree on every question, finds no difference (p = 1).
# In fact mlxtend 0.25.0 divides the continuity correction by zero and returns chi-squared = inf and p = 0.0: the
# strongest evidence of a difference there is, with no more than a RuntimeWarning of NumPy. The exact variant gives 1.
# It matters to people who train vision-language models because two checkpoints early in a run, or the same one asked
# twice greedily, often answer alike, and a table of p-values then marks just these pairs as significant.
# No upstream issue found for mlxtend (huggingface/evaluate pull request 795 treats the same case there).
# Seen here: chi2 = inf, p = 0.0 by default; p = 1.0 with exact=True; p = 0.48 for one disagreement each way.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq mlxtend==0.25.0 numpy==2.4.6
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

import numpy as np
from mlxtend.evaluate import mcnemar, mcnemar_table

truth = np.arange(80) % 10
answers = np.where(np.arange(80) < 50, truth, 99)  # both models: the same 50 right, the same 30 wrong
table = mcnemar_table(truth, answers, answers)
chi2, p = mcnemar(table)
_, exact = mcnemar(table, exact=True)
_, near = mcnemar(table + np.array([[0, 1], [1, 0]]))
print(f"table {table.tolist()}: chi2 = {chi2}, p = {p}; exact p = {exact}; one disagreement each way: p = {near:.2f}")
if not (np.isinf(chi2) and p == 0 and exact == 1 and near > 0.05):
    sys.exit("The behaviour differs from the description: identical answers no longer count as a certain difference.")
PY

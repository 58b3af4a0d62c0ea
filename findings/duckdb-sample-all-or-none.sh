#!/usr/bin/env bash
# One would guess that `USING SAMPLE 10%` of a table of 1,000 rows gives about 100 rows.
# In fact a sample by percentage draws blocks of 2,048 rows, each as a whole: of 1,000 rows it gives none nine times
# out of ten, and all of them otherwise. Of 20,000 rows it gives a few runs of neighbours, 2,048 long.
# `USING SAMPLE 100` (rows) and `USING SAMPLE 10% (bernoulli)` draw single rows. DuckDB 2.0.1.
# It matters to people who take a part of a data set for an evaluation or a trial because files are often ordered by
# task or source: a tenth of 20,000 rows can be all of one task, and of a small file it is nothing, or everything.
# Upstream: documented as the default for percentages ("system"); no warning is given.
# Seen here: only 0 and 1,000 among 200 samples of 1,000 rows; at most 4 runs of neighbours in 20,000 rows.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq duckdb==2.0.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import collections
import sys

import duckdb

duckdb.sql("CREATE TABLE small AS SELECT range AS number FROM range(1000)")
duckdb.sql("CREATE TABLE large AS SELECT range AS number FROM range(20000)")


def draw(table, sample):
    return sorted(row[0] for row in duckdb.sql(f"SELECT number FROM {table} USING SAMPLE {sample}").fetchall())


sizes = collections.Counter(len(draw("small", "10%")) for _ in range(200))
singles = [len(draw("small", "10% (bernoulli)")) for _ in range(200)]
runs = []
for _ in range(50):
    rows = draw("large", "10%")
    runs.append(sum(1 for here, before in zip(rows, [None, *rows]) if before is None or here != before + 1))
print(f"10% of 1,000 rows, 200 times: sizes {dict(sizes)}; single rows drawn: {min(singles)} to {max(singles)}; "
      f"10% of 20,000 rows: at most {max(runs)} runs of neighbours")
if not (set(sizes) <= {0, 1000} and 0 < sizes[0] and 40 < min(singles) and max(singles) < 170 and max(runs) <= 10):
    sys.exit("The behaviour differs from the description: rows are drawn one by one.")
PY

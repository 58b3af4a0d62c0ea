#!/usr/bin/env bash
# One would guess that polars refuses a float in a column that it has taken for integers, or makes the column float.
# In fact from_dicts, and DataFrame(records) with strict=True (the default), look at the first 100 records and cut
# every later float to an integer: a reward of 0.5 or 0.9 is 0, and 1.7 is 1. In a column that began with True, 0.5 is
# False. A key that appears first in record 101 is left out. Of the same records as lines, read_ndjson refuses the
# floats. polars 2.1.0.
# It matters to people who keep rewards in tables because the first rewards of a run are 0 and 1, and partial ones come
# later. The mean is too low, and what only a late record says ("error") is gone. Way out: infer_schema_length=None.
# Upstream: polars issues 21329 (the floats, open) and 23190 (the keys, open).
# Seen here: [0, 0, 1] where [0.5, 0.9, 1.7] went in, mean 0.01 instead of 0.03; all kept with infer_schema_length=None.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq polars==2.1.0
cd "$T"
"$T/venv/bin/python" - <<'PY'
import json
import sys

import polars as pl

late = [{"reward": 0.5, "error": "timeout"}, {"reward": 0.9, "error": "timeout"}, {"reward": 1.7, "error": "timeout"}]
records = [{"reward": 0}] * 100 + late
table, strict = pl.from_dicts(records), pl.DataFrame(records, strict=True)
whole = pl.from_dicts(records, infer_schema_length=None)
began_true = pl.from_dicts([{"reward": True}] * 100 + [{"reward": 0.5}])["reward"][-1]
try:
    lines = pl.read_ndjson("\n".join(map(json.dumps, records)).encode())["reward"].to_list()[-3:]
except pl.exceptions.ComputeError:
    lines = "an error"
last = [frame["reward"].to_list()[-3:] for frame in (table, strict, whole)]
means = [round(frame["reward"].mean(), 2) for frame in (table, whole)]
print(f"from_dicts {last[0]}, DataFrame {last[1]}, infer_schema_length=None {last[2]}, read_ndjson {lines}")
print(f"means {means}, columns {table.columns} and {whole.columns}; 0.5 behind 100 times True: {began_true}")
if not (last == [[0, 0, 1], [0, 0, 1], [0.5, 0.9, 1.7]] and lines == "an error" and began_true is False
        and table.columns == ["reward"] and whole.columns == ["reward", "error"]):
    sys.exit("The behaviour differs from the description: late floats and late keys are treated in another way.")
PY

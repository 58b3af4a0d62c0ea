#!/usr/bin/env bash
# One would guess that a string of JSON stays a string when DuckDB reads a JSONL file: JSON has types, and "1-2-3" in
# quotation marks is text. In fact DuckDB looks for dates and times in strings, and where all that it has sampled pass
# as one, the column is one: the order "1-2-3" is 2001-02-03, the clock's "3:45" is 03:45:00, and "03-04-2024" is the
# 3rd of April, also where the next row, "05-26-2024", is read with the month first. Turned back to text they are not
# what the file has. Numbers in strings ("007") stay text, as do dates with slashes. DuckDB 2.0.1.
# It matters to people who judge a model's answers from such files because answers about clocks, orders and dates
# no longer equal those that the model wrote, and one row with other text in the sample brings the text back: a filtered
# file behaves otherwise than the whole. Way out: read_json(..., columns={"answer": "VARCHAR"}) or dateformat.
# Upstream: the documentation of read_json names the detection. No issue found for "1-2-3".
# Seen here: 2001-02-03 and 2004-05-06 for "1-2-3" and "4-5-6", 03:45:00 for "3:45", 2024-04-03 for "03-04-2024".
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq duckdb==2.0.1
cd "$T"
"$T/venv/bin/python" - <<'PY'
import json
import sys

import duckdb


def read(answers, columns=""):
    with open("answers.jsonl", "w") as file:
        file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
    rows = duckdb.sql(f"SELECT answer::VARCHAR FROM read_json('answers.jsonl'{columns})").fetchall()
    return [row[0] for row in rows]


order, clock = ["1-2-3", "4-5-6"], ["3:45", "10:20"]
day, month = ["03-04-2024", "05-06-2024"], ["03-04-2024", "05-26-2024"]
seen = {}
for answers in (order, clock, day, month, ["1-2-3", "none"], ["007", "010"]):
    seen[tuple(answers)] = read(answers)
    print(answers, "are read as", seen[tuple(answers)])
told = read(order, ", columns={answer: 'VARCHAR'}")
print(order, "with the column's type given are", told)
expected = [["2001-02-03", "2004-05-06"], ["03:45:00", "10:20:00"], ["2024-04-03", "2024-06-05"],
            ["2024-04-03", "2024-05-26"], ["1-2-3", "none"], ["007", "010"]]
if list(seen.values()) != expected or told != order:
    sys.exit("The behaviour differs from the description.")
PY

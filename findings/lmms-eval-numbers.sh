#!/usr/bin/env bash
# One would guess that "ignore punctuation" in an evaluation of vision-language models means full stops and commas.
# In fact lmms-eval's exact_match deletes the minus sign and the decimal point of numbers with it: -5 is 5, and 1.5
# is 15. Its `median` aggregation does not sort: it is the value in the middle of the list as it came.
# lmms-eval 0.7.3. It matters to people who train vision-language models because readings of charts, scales and
# thermometers are such numbers, and 43 of its own task files say ignore_punctuation: true.
# No upstream issue found. Seen here: exact_match 1.0 for -5 against 5 and for 1.5 against 15, median 100 of 1, 100, 2.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq torch==2.13.0 transformers==5.17.0 evaluate==0.4.6 sacrebleu==2.6.0 \
  loguru==0.7.3 pyyaml==6.0.4 pytz==2026.6 pillow==12.3.0
"$T/venv/bin/pip" install -qq --no-deps lmms-eval==0.7.3  # what this needs of its requirements is above
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$T/venv/bin/python" - <<'PY'
import sys

from lmms_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
import lmms_eval.api.metrics  # fills the registries

exact = METRIC_REGISTRY["exact_match"]
median = AGGREGATION_REGISTRY["median"]


def same(given, right):
    result = exact(predictions=[given], references=[right], ignore_punctuation=True, ignore_case=True)
    return float(result["exact_match"])


seen = {pair: same(*pair) for pair in [("5.", "5"), ("-5", "5"), ("1.5", "15"), ("5", "6")]}
print("exact_match with ignore_punctuation:", seen, "| median of 1, 100, 2:", median([1, 100, 2]))
if list(seen.values()) != [1.0, 1.0, 1.0, 0.0] or median([1, 100, 2]) != 100:
    sys.exit("The behaviour differs from the description: numbers keep their sign and point, or the median is sorted.")
PY

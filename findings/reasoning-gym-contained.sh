#!/usr/bin/env bash
# One would guess that reasoning-gym's score_answer, "verifiable rewards", pays 1 for the right number and 0 for another.
# In fact an answer that only contains the right one earns the share of its characters: where 2 is right, 12 earns 0.5,
# and so does 2 with a newline behind it. 33 of its 106 datasets inherit that rule (gcd, lcm, basic_arithmetic,
# base_conversion, letter_counting, ...); others strip or read the number. reasoning-gym 0.1.25. Its own extract_answer
# strips; an extraction of one's own, such as a regular expression over <answer>, often does not.
# It matters to people who train with it because a policy is paid half for 12 where 2 is right, and the same
# right answer is worth 1 or 0.5 by the line break that a model likes to write. No upstream issue found.
# Seen here, where 2 is right: 2 earns 1.0; 12 earns 0.5; "2\n" earns 0.5; "1 2 3 4" earns 0.14.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq reasoning-gym==0.1.25
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

import reasoning_gym
from reasoning_gym.factory import DATASETS, ProceduralDataset

dataset = reasoning_gym.create_dataset("gcd", size=200, seed=1)
entry = next(entry for entry in dataset if entry["answer"] == "2")
seen = {answer: round(dataset.score_answer(answer, entry), 2) for answer in ("2", "3", "12", "2\n", "1 2 3 4")}
inherit = sum(cls.score_answer is ProceduralDataset.score_answer for cls, _ in DATASETS.values())
print(seen, f"{inherit} of {len(DATASETS)} datasets")
if list(seen.values()) != [1.0, 0.0, 0.5, 0.5, 0.14] or (inherit, len(DATASETS)) != (33, 106):
    sys.exit("The behaviour differs from the description: what contains the answer is scored in another way.")
PY

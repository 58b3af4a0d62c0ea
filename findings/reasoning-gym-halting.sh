#!/usr/bin/env bash
# One would guess that the dataset game_of_life_halting of reasoning-gym pays for the right one of its two answers,
# True and False. In fact every answer that is not empty earns 1.0, for every board: both the answer and the truth are
# turned into a bool as texts, and bool("False") is True. reasoning-gym 0.1.25.
# It matters to people who train or evaluate on a mixture of its datasets because this one reports 100% from the first
# step, for whatever a model says, and lifts the mean. No upstream issue found.
# Seen here, for 50 boards, 24 of them True and 26 False: "True", "False" and "I can't tell" earn 1.0 each time.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq reasoning-gym==0.1.25
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys
from collections import Counter

import reasoning_gym

dataset = reasoning_gym.create_dataset("game_of_life_halting", size=50, seed=1)
truths = Counter(entry["answer"] for entry in dataset)
answers = ("True", "False", "I can't tell")
seen = {answer: {dataset.score_answer(answer, entry) for entry in dataset} for answer in answers}
print(dict(truths), seen)
if len(truths) != 2 or any(scores != {1.0} for scores in seen.values()):
    sys.exit("The behaviour differs from the description: not every answer earns 1.0.")
PY

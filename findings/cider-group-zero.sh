#!/usr/bin/env bash
# One would guess that CIDEr of a caption depends on the caption and its references, and that it tells the captions of
# one image apart. In fact a word weighs by how few of the items of the same call have it in their references. The
# completions of one prompt, scored together, have the same references: each of their words weighs log(1) = 0, and each
# completion gets 0.0, also the one that is the reference word for word. Beside other prompts that caption gets 10.
# pycocoevalcap 1.2.
# It matters to people who train captions with GRPO because a reward function sees the completions of one prompt or of
# a few. With one prompt all rewards are equal and nothing is learned; with more, they depend on the neighbours.
# Way out: count the words of the references of the whole data set once. Upstream has a single caption alone: issue 18
# (open), and coco-caption issue 9.
# Seen here: 0, 0, 0, 0 for a group; 10 for the right caption beside another group; 5.6, 5.5 or 1.8 for one almost
# right caption, by what the other image shows.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq --no-deps pycocoevalcap==1.2 numpy==2.4.6
cd "$T"
"$T/venv/bin/python" - <<'PY'
import sys

from pycocoevalcap.cider.cider import Cider


def cider(pairs):
    references = {i: [reference] for i, (_, reference) in enumerate(pairs)}
    answers = {i: [answer] for i, (answer, _) in enumerate(pairs)}
    return [round(float(score), 1) for score in Cider().compute_score(references, answers)[1]]


right = "a red cat on a mat"
group = [(answer, right) for answer in (right, "a dog", "a red cat", "nothing at all")]
other = [(answer, "two dogs in the snow") for answer in ("two cats", "dogs", "snow", "a bus")]
alone, beside = cider(group), cider(group + other)[:4]
neighbours = ("two dogs in the snow", "a red bus", "a red cat on a sofa")
moved = [cider([(right, "a red cat on the mat"), (text, text)])[0] for text in neighbours]
print(f"one group: {alone}; the same group beside another: {beside}")
print(f"one caption beside each of three other images: {dict(zip(neighbours, moved))}")
if not (alone == [0.0] * 4 and beside[0] == 10.0 and len(set(moved)) == 3):
    sys.exit("The behaviour differs from the description: the captions of one group are told apart.")
PY

#!/usr/bin/env bash
# One would guess that supervision's Detections.from_vlm reads each box that Qwen2.5-VL writes in its JSON.
# In fact a single object that stands in no list, and a box without a label, give no detection and no error; the
# same text within [ ] or with a label gives the box. supervision 0.31.2, VLM.QWEN_2_5_VL.
# It matters to people who measure grounding because a model asked for one object often writes one object, and a model
# asked for boxes alone writes no labels: both count as "found nothing". No upstream issue found.
# Seen here: 1 box in a list, 0 without the list, 0 without the label.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq supervision==0.31.2
cd "$T"
"$T/venv/bin/python" - <<'PY'
import json
import sys

import supervision


def boxes(answer):
    text = f"```json\n{json.dumps(answer)}\n```"
    size = {"input_wh": (280, 280), "resolution_wh": (280, 280)}
    return len(supervision.Detections.from_vlm(supervision.VLM.QWEN_2_5_VL, text, **size))


box = {"bbox_2d": [10, 20, 30, 40], "label": "cat"}
seen = {"in a list": boxes([box]), "alone": boxes(box), "without a label": boxes([{"bbox_2d": box["bbox_2d"]}])}
print(seen)
if list(seen.values()) != [1, 0, 0]:
    sys.exit("The behaviour differs from the description: other boxes are read.")
PY

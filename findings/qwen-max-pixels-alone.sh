#!/usr/bin/env bash
# One would guess that Qwen's image processor obeys `max_pixels=` at a call, as its documentation and recipes do.
# In fact it obeys min_pixels and max_pixels at a call only when both are given: one alone is ignored in silence, and
# the picture goes in at full size. At construction one alone is obeyed. transformers 5.17.0, Qwen2VLImageProcessor
# (Qwen2-VL, Qwen2.5-VL), here its Pillow variant.
# It matters to people who train vision-language models because max_pixels is what keeps prompts in memory: a
# 280x280 picture has 400 patches (100 tokens) where 16 (4 tokens) were asked for. No upstream issue found.
# Seen here: 400 patches without limits, 400 with max_pixels alone, 400 with min_pixels alone, 16 with both.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 pillow==12.3.0
cd "$T"
HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY' 2> >(grep -v "PyTorch was not found" >&2)
import sys

from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

processor = Qwen2VLImageProcessorPil()
picture = Image.new("RGB", (280, 280), "white")


def patches(**limits):
    return len(processor(picture, return_tensors="np", **limits)["pixel_values"])


seen = {
    "no limit": patches(),
    "max_pixels alone": patches(max_pixels=56 * 56),
    "min_pixels alone": patches(min_pixels=560 * 560),
    "both": patches(min_pixels=28 * 28, max_pixels=56 * 56),
    "both, larger": patches(min_pixels=560 * 560, max_pixels=1120 * 1120),
}
print("patches:", seen)
if list(seen.values()) != [400, 400, 400, 16, 1600]:
    sys.exit("The behaviour differs from the description: a limit given alone is no longer ignored.")
PY

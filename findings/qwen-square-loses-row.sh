#!/usr/bin/env bash
# One would guess that with max_pixels = 448 * 448 every larger square image becomes 448 x 448, 256 tokens.
# In fact 300 of the 2,551 sizes from 449 to 2,999 become 420 x 420, 225 tokens: 600 x 600 does, 512 x 512 and
# 1000 x 1000 do not. The quotient that should be 16 is 15.999999999999998, and is rounded down. transformers 5.17.0,
# smart_resize of Qwen2VLImageProcessor (Qwen2-VL, Qwen2.5-VL; factor 28). With Qwen3-VL's factor 32 and
# 512 * 512 no size is hit: its sides are powers of two.
# It matters to people who choose a limit so that all images get one grid (for static shapes, for a token budget, for
# boxes in pixels of the resized image): one size of image gets another grid, 12% fewer tokens, and nothing says so.
# A limit a little above the square (448 * 448 + 28) gives 448 to all. No upstream issue found.
# Seen here: the image processor gives 600 x 600 a grid of 30 x 30 patches, and 512 x 512 one of 32 x 32.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 pillow==12.3.0
cd "$T"
HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY' 2> >(grep -v "PyTorch was not found" >&2)
import sys

from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

processor = Qwen2VLImageProcessorPil()


def grid(side, limit):
    image = Image.new("RGB", (side, side), "white")
    return processor(image, return_tensors="np", min_pixels=56 * 56, max_pixels=limit)["image_grid_thw"][0].tolist()


def hit(limit):
    sides = {side: smart_resize(side, side, min_pixels=56 * 56, max_pixels=limit) for side in range(449, 3000)}
    return sum(size == (420, 420) for size in sides.values())


seen = {side: grid(side, 448 * 448) for side in (512, 600, 1000)}
print(seen, hit(448 * 448), hit(448 * 448 + 28), grid(600, 448 * 448 + 28))
if list(seen.values()) != [[1, 32, 32], [1, 30, 30], [1, 32, 32]] or (hit(448 * 448), hit(448 * 448 + 28)) != (300, 0):
    sys.exit("The behaviour differs from the description: squares get another size.")
PY

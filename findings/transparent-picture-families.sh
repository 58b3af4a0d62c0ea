#!/usr/bin/env bash
# One would guess that a transparent PNG looks alike to all models whose processors of transformers convert to RGB.
# In fact "convert to RGB" means two things: Qwen2-VL, Gemma 3, LLaVA-NeXT, Idefics3 and SmolVLM drop the alpha channel, so
# that black writing on a transparent page is black on black, an empty picture; Idefics2 lays the page on white first
# and shows the writing. Idefics3 is the successor of Idefics2, with the same option do_convert_rgb=True.
# transformers 5.17.0 with Pillow 12.3.0. It matters to people who train vision-language models because plots, formulas
# and logos are such files: one model reads them, another sees nothing, and the comparison blames the model.
# The way out: lay them on white before any processor. No upstream issue found;
# seen here: 1 grey level (a plain picture) for five families, more than one for Idefics2.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 pillow==12.3.0
cd "$T"
HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY' 2> >(grep -v "PyTorch was not found" >&2)
import importlib
import sys

import numpy as np
from PIL import Image

page = np.zeros((56, 56, 4), np.uint8)  # transparent; its hidden colour is black, as plotting tools write it
page[20:30, 10:40, 3] = 255  # black writing
picture = Image.fromarray(page, "RGBA")
families = {
    "qwen2_vl": "Qwen2VL", "gemma3": "Gemma3", "llava_next": "LlavaNext",
    "idefics3": "Idefics3", "smolvlm": "SmolVLM", "idefics2": "Idefics2",
}
levels = {}
for family, name in families.items():
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    processor = getattr(module, f"{name}ImageProcessorPil")(do_rescale=False, do_normalize=False)
    values = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
    assert processor.do_convert_rgb
    levels[family] = len(np.unique(values.round()))
    print(f"{family}: {levels[family]} grey level(s), mean {values.mean():.1f}")
shown = [family for family, n in levels.items() if n > 1]
if shown != ["idefics2"]:
    sys.exit(f"The behaviour differs from the description: the writing is visible to {shown or 'none'}.")
PY

#!/usr/bin/env bash
# One would guess that a processor made with limits of its own leaves the processors made after it alone.
# In fact Qwen2VLImageProcessor(max_pixels=...) writes its limit into the dictionary that is the class's default, and
# every processor made later in the same process has it, also one from a configuration that names no size.
# transformers 5.17.0. It matters to people who train vision-language models because training, evaluation and an engine
# share a process: the order in which they make their processors decides how many tokens a picture has, and a small
# preview processor made first shrinks the pictures of all that follow. No upstream issue found.
# Seen here: 400 patches before, 16 for the limited one, then 16 for a new one without any limit.
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

picture = Image.new("RGB", (280, 280), "white")


def patches(processor):
    return len(processor(picture, return_tensors="np")["pixel_values"])


made_before = Qwen2VLImageProcessorPil()
before = patches(made_before)
limited = patches(Qwen2VLImageProcessorPil(max_pixels=56 * 56))
after = patches(Qwen2VLImageProcessorPil())
print(f"patches: before {before}; with max_pixels {limited}; a new one without limits {after}; "
      f"the one made before {patches(made_before)}; the class's default is now {Qwen2VLImageProcessorPil.size}")
if (before, limited, after, patches(made_before)) != (400, 16, 16, 400):
    sys.exit("The behaviour differs from the description: the class's default kept its value.")
PY

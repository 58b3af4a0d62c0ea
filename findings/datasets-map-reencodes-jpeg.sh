#!/usr/bin/env bash
# One would guess that a `map` which only looks at an image, and returns one new column, leaves the image alone.
# In fact reading the cell inside the function makes datasets write the decoded picture back: a JPEG of quality 95
# becomes one of quality 75, and pixels move by dozens of grey levels. The same function does nothing to the image
# when it does not touch the cell, and `filter` never does, so whether pictures change depends on how code is written.
# datasets 5.2.0 with Pillow 12.3.0. It matters to people who train vision-language models because a harmless step
# ("add the image's size") costs fine print, and verified hashes of files. Way out: cast to Image(decode=False) first.
# No upstream issue found; seen here: 5434 bytes -> 2865 bytes when read, 5434 when not, largest change 74 of 255.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$T"
HF_HOME="$T/hf" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$T/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
from datasets import Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow

disable_progress_bars()
noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
file = io.BytesIO()
Pillow.fromarray(noise).save(file, "JPEG", quality=95)
original = file.getvalue()
rows = Dataset.from_dict({"image": [{"bytes": original, "path": None}]}, features=Features({"image": Image()}))


def stored(dataset):
    return dataset.cast_column("image", Image(decode=False))[0]["image"]["bytes"]


def pixels(data):
    return np.asarray(Pillow.open(io.BytesIO(data))).astype(int)


read = stored(rows.map(lambda row: {"width": row["image"].width}))
unread = stored(rows.map(lambda row: {"width": 64}))
filtered = stored(rows.filter(lambda row: row["image"].width == 64))
moved = int(np.abs(pixels(read) - pixels(original)).max())
print(f"file {len(original)} bytes; map that reads the image {len(read)}; map that does not {len(unread)}; "
      f"filter that reads it {len(filtered)}; largest change of a pixel {moved}")
if not (unread == original == filtered and len(read) < len(original) and moved > 20):
    sys.exit("The behaviour differs from the description: a map that only reads an image left its bytes as they were.")
PY

#!/usr/bin/env bash
# One would guess that a picture opened with Pillow, with a box drawn on it, goes into a dataset with its box.
# In fact datasets looks at the image's `filename` attribute: as long as it is set, the *file* is stored in place of
# the pixels in memory, and the drawing is gone. After `.convert("RGB")` or `.copy()` the attribute is gone and the
# drawing is kept, so the same code works for palette images that are converted, and fails for those that are not.
# The same happens in `map` where the column holds paths. datasets 5.2.0 with Pillow 12.3.0, no error, no warning.
# It matters to people who train vision-language models because marks, boxes and redactions are drawn this way: the
# model is asked about "the red box" and sees none. No upstream issue found;
# seen here: red in memory, white in the dataset (both ways), red after `.copy()`.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq datasets==5.2.0 pillow==12.3.0
cd "$T"
HF_HOME="$T/hf" HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY'
import sys

from datasets import Dataset, Features, Image, disable_progress_bars
from PIL import Image as Pillow
from PIL import ImageDraw

disable_progress_bars()
Pillow.new("RGB", (32, 32), "white").save("page.png")
feature = Features({"image": Image()})


def boxed(image):
    ImageDraw.Draw(image).rectangle((4, 4, 20, 20), fill="red")
    return image


def corner(dataset):
    return dataset[0]["image"].convert("RGB").getpixel((10, 10))


image = boxed(Pillow.open("page.png"))
memory = image.getpixel((10, 10))
built = corner(Dataset.from_list([{"image": image}], features=feature))
copied = corner(Dataset.from_list([{"image": image.copy()}], features=feature))
paths = Dataset.from_dict({"image": ["page.png"]}).cast_column("image", Image())
mapped = corner(paths.map(lambda row: {"image": boxed(row["image"])}))
print(f"in memory {memory}; in a dataset {built}; mapped over paths {mapped}; in a dataset after .copy() {copied}")
red, white = (255, 0, 0), (255, 255, 255)
if (memory, built, mapped, copied) != (red, white, white, red):
    sys.exit("The behaviour differs from the description: the drawing was not lost where it should be.")
PY

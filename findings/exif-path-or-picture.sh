#!/usr/bin/env bash
# One would guess that a processor of transformers sees the same picture whether it is given a path or Image.open(path).
# In fact the path goes through load_image, which turns the photo as its EXIF orientation says, and an opened Pillow
# image is taken as it lies in the file: a portrait from a phone goes in sideways, with height and width exchanged.
# datasets turns it as well when it decodes. transformers 5.17.0, datasets 5.2.0, Pillow 12.3.0.
# It matters to people who train vision-language models because training usually reads through datasets and demos or
# servers through Image.open: another grid of patches, boxes in other places, and text that runs upwards.
# The way out: ImageOps.exif_transpose after Image.open. No upstream issue found.
# Seen here: grid (height, width) 4 x 8 for Image.open, 8 x 4 for the path and for datasets.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 datasets==5.2.0 pillow==12.3.0
cd "$T"
HF_HOME="$T/hf" HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY' 2> >(grep -v "PyTorch was not found" >&2)
import sys

from datasets import Dataset, Image
from PIL import Image as Pillow
from PIL import ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

photo = Pillow.new("RGB", (112, 56), "white")
exif = photo.getexif()
exif[274] = 6  # the camera was held upright
photo.save("photo.jpg", exif=exif)
processor = Qwen2VLImageProcessorPil()


def grid(image):
    return tuple(int(n) for n in processor(image, return_tensors="np")["image_grid_thw"][0][1:])


row = Dataset.from_dict({"image": ["photo.jpg"]}).cast_column("image", Image())[0]["image"]
seen = {
    "Image.open": grid(Pillow.open("photo.jpg")),
    "path": grid("photo.jpg"),
    "datasets": grid(row),
    "exif_transpose": grid(ImageOps.exif_transpose(Pillow.open("photo.jpg"))),
}
print("grid (height, width):", seen)
if list(seen.values()) != [(4, 8), (8, 4), (8, 4), (8, 4)]:
    sys.exit("The behaviour differs from the description: the ways in agree, or disagree in another way.")
PY

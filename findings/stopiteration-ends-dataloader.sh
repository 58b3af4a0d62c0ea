#!/usr/bin/env bash
# One would guess that a processor given one image too few raises an error that stops training.
# In fact the processors of transformers take images from an iterator, and what comes out is a bare StopIteration; in
# a DataLoader's collate function it says "the loader is finished". The loop over batches ends without an error in the
# middle of the epoch, and whatever follows (saving, evaluation, "epoch 1 done") goes on. Python's own map() does so
# too; datasets' map turns it into a RuntimeError. transformers 5.17.0, torch 2.13.0, here LLaVA-NeXT.
# It matters to people who train vision-language models because one row with a placeholder too many, or a lost
# image, silently cuts the data behind it. No upstream issue found;
# seen here: 2 of 5 rows from the DataLoader, 2 of 5 from map(), RuntimeError from a generator.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 torch==2.13.0 pillow==12.3.0
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$T/venv/bin/python" - <<'PY'
import sys

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

words = Tokenizer(models.WordLevel({"?": 0, "what": 1}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="?", pad_token="[PAD]", extra_special_tokens={"image_token": "<image>"}
)
images = LlavaNextImageProcessorPil(
    size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=[[28, 28], [28, 56]]
)
processor = LlavaNextProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default")
rows = [{"id": i, "text": "<image> what"} for i in range(5)]
rows[2]["text"] = "<image> <image> what"  # one placeholder too many, one image as in all rows


def prepare(batch):
    processor(text=[row["text"] for row in batch], images=[[Image.new("RGB", (28, 28))] for _ in batch])
    return [row["id"] for row in batch]


loaded = [batch for batch in DataLoader(rows, batch_size=1, collate_fn=prepare)]
mapped = list(map(prepare, [[row] for row in rows]))
try:
    made = list(prepare([row]) for row in rows)
except RuntimeError as error:
    made = str(error)
print(f"DataLoader: {loaded}; map(): {mapped}; generator: {made}")
if not (loaded == mapped == [[0], [1]] and "StopIteration" in made):
    sys.exit("The behaviour differs from the description: the loop did not end early, or an error was raised.")
PY

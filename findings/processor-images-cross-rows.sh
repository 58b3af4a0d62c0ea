#!/usr/bin/env bash
# One would guess that images given as a list of lists, one list a row, stay with their rows.
# In fact the processors of transformers flatten the lists and hand the images to the placeholders of the whole batch
# in order: where one row has a placeholder more than images and the next one image more than placeholders, an image
# moves to the neighbour's question, and nothing is raised as long as the totals agree. An image too many at the end
# is dropped from the text in the same silence. transformers 5.17.0, in code all its processors share, here LLaVA-NeXT.
# It matters to people who train vision-language models because one wrong row (a text that quotes "<image>") makes
# its neighbour's answer about another picture, and only in batches. No upstream issue found.
# Seen here: image tokens [22, 0] for rows that own one image each, where right rows have [9, 13].
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 pillow==12.3.0
cd "$T"
HF_HUB_OFFLINE=1 "$T/venv/bin/python" - <<'PY' 2> >(grep -v "PyTorch was not found" >&2)
import sys

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

words = Tokenizer(models.WordLevel({"?": 0, "what": 1, "is": 2, "it": 3}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="?", pad_token="[PAD]", extra_special_tokens={"image_token": "<image>"}
)
images = LlavaNextImageProcessorPil(
    size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=[[28, 28], [28, 56]]
)
processor = LlavaNextProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default")
small, wide = Image.new("RGB", (28, 28)), Image.new("RGB", (56, 28))
place = tokenizer.convert_tokens_to_ids("<image>")


def tokens(texts, pictures):
    out = processor(text=texts, images=pictures)
    return [row.count(place) for row in out["input_ids"]], len(out["pixel_values"])


right = tokens(["<image> what is it", "<image> what is it"], [[small], [wide]])
crossed = tokens(["<image> <image> what is it", "what is it"], [[small], [wide]])
spare = tokens(["<image> what is it"], [[wide, small]])
print(f"(image tokens a row, images): right {right}; crossed {crossed}; one image too many {spare}")
total = sum(right[0])
if not (min(right[0]) > 0 and crossed == ([total, 0], 2) and spare == ([right[0][1]], 2)):
    sys.exit("The behaviour differs from the description: images stayed with their rows, or were counted.")
PY

"""The recipes' models with random weights: one layer deep, two heads wide, with processors that are made here.

Everything else is as published: the size of a head, of a patch and of an image, rotary sections, and the templates.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from datagen import r1_format as r1
from datagen.registry import TASKS
from training.builtin_models.architecture import EXAMPLE, SPECIAL_TOKENS
from training.launch import memory

QWEN = """\
{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SMOLVLM = """\
<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}\
{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
SMOLVLM_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)

HEADS = 2
WIDTHS = (  # in the configurations of the language model and of the vision tower
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("num_heads", "embed_dim", "out_hidden_size"),
)


@cache
def tokenizer(special: tuple[str, ...], end: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens, trained on the tasks' prompts."""
    prompts = [
        message["content"]
        for task in TASKS.values()
        if task.interaction is None
        for message in r1.make_prompt(task.ask(EXAMPLE), task.example_answer)
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [*prompts, r1.OPENING],
        trainers.BpeTrainer(
            vocab_size=512, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=end, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def make_processor(family: str, vision: dict[str, Any]) -> Any:
    """The processor of a family of models, with the image sizes of the published one."""
    if family == "smolvlm":
        size = vision["image_size"]
        images = {"size": {"longest_edge": 4 * size}, "max_image_size": {"longest_edge": size}}
        return SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(**images),
            tokenizer=tokenizer(SMOLVLM_TOKENS, "<end_of_utterance>"),
            video_processor=SmolVLMVideoProcessor(**images),
            image_seq_len=(size // vision["patch_size"] // 3) ** 2,
            chat_template=SMOLVLM,
        )
    words = tokenizer(SPECIAL_TOKENS, "<|im_end|>")
    common: dict[str, Any] = {"merge_size": 2, "temporal_patch_size": 2, "patch_size": vision["patch_size"]}
    if family == "qwen3_vl":
        common |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        images = common | {"size": {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}}
        return Qwen3VLProcessor(
            Qwen2VLImageProcessor(**images), words, Qwen3VLVideoProcessor(**common), chat_template=QWEN
        )
    images = common | {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}}
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**images), words, Qwen2VLVideoProcessor(**images), QWEN)


def shrunk(model: str, folder: Path) -> Path:
    """A model of `shapes.json`, shrunk, with random weights and 576 words, as a checkpoint in a folder."""
    known = json.loads((Path(memory.__file__).parent / "shapes.json").read_text(encoding="utf-8"))
    shape = known[model]["config"]
    family, text, vision = shape["model_type"], dict(shape["text_config"]), dict(shape["vision_config"])
    processor = make_processor(family, vision)
    ids = processor.tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    text |= {"vocab_size": 576, "num_hidden_layers": 1, "bos_token_id": None, **ends}
    text["head_dim"] = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    width, text_heads = text["hidden_size"], text["num_attention_heads"]  # the vision tower's output has that width
    for part in (vision, text):
        heads = part.get("num_attention_heads") or part["num_heads"]
        for name in (name for name in WIDTHS if name in part):
            shared = part[name] == width and name in ("hidden_size", "out_hidden_size")
            part[name] = max(1, part[name] // ((text_heads if shared else heads) // HEADS))
    vision["num_hidden_layers" if "num_hidden_layers" in vision else "depth"] = 1
    for indexes in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if indexes in vision:
            vision[indexes] = [0]
    tokens = {"image_token_id": processor.image_token_id}
    if family != "smolvlm":
        tokens |= {"video_token_id": ids("<|video_pad|>"), "vision_start_token_id": ids("<|vision_start|>")}
        tokens |= {"vision_end_token_id": ids("<|vision_end|>")}
    else:
        tokens |= {"pad_token_id": processor.tokenizer.pad_token_id}
    config = AutoConfig.for_model(**{**shape, **tokens, "text_config": text, "vision_config": vision})
    torch.manual_seed(0)
    network = AutoModelForImageTextToText.from_config(config)
    network.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    network.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

"""The small model's shape, tokenizer and processor: Qwen2.5-VL's architecture, 1.7 million parameters.

transformers, TRL and vLLM load it as they load Qwen/Qwen2.5-VL-3B-Instruct. One merged vision token sees 28 x 28
pixels, the size of a handwritten digit; an 84 x 84 image is 9 of them.
"""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import Any

from tokenizers import Tokenizer, decoders, models
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from datagen import r1_format as r1
from datagen.tasks.counting import COUNTING
from datagen.tasks.digits import DIGITS
from datagen.tasks.messages import MESSAGES
from datagen.tasks.words import WORDS

SPECIAL_TOKENS = (  # Qwen's, in Qwen's order
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
VOCABULARY = 448  # all tokens, rounded up to a multiple of 64
EXAMPLE = {"target": 3, "coded_message": "x"}  # what a question may name

# ChatML with images, as Qwen2.5-VL writes it, one image a placeholder. r1_format.with_opening adds the opening words.
CHAT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every character a token, and every sentence that prompts repeat; what is neither is spelled in bytes.

    A Unigram model (Kudo 2018, https://arxiv.org/abs/1804.10959) whose tokens all cost the same: a text becomes the
    fewest tokens there are. Prompts stay short that way, while letters and digits that are reasoned about stay single.
    """
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", *map(chr, range(32, 127)), *phrases()]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return fast


def phrases() -> list[str]:
    """The sentences of the tasks' prompts, cut at digits, and the fixed words of traces and answers."""
    fixed = [
        "system\n",
        "user\n",
        "assistant\n",
        r1.OPENING,
        "<think>",
        "<chars>",
        "</chars>",
        "<answer>",
        "</answer>",
    ]
    fixed += ["I see ", ", ", ". ", " + ", " = ", ".</think>\n<answer>"]  # of digits' and words' traces
    fixed += [". <chars> ", " </chars></think>\n<answer>"]  # of messages'
    fixed += [query(letter) for letter in f"{ascii_lowercase}_"]
    texts = [
        message["content"]
        for dataset in (DIGITS, COUNTING, WORDS, MESSAGES)
        for task in dataset.tasks
        for message in r1.make_prompt(task.ask(EXAMPLE), task.example_answer)
    ]
    sentences = [part for text in texts for part in re.split(r"\d|(?<=[.:?;,] )|\n", text) if len(part) > 2]
    return list(dict.fromkeys([*fixed, *sentences]))


def query(letter: str) -> str:
    """The token at which a trace looks a letter up: what is known of it and what is sought meet in one place."""
    return f"{letter} = "


def make_processor() -> Qwen2_5_VLProcessor:
    """Tokenizer, image processor and chat template. Images are scaled to mean 0 and range -1 to 1."""
    image: dict[str, Any] = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64},  # areas in pixels, as Qwen's config has them
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**image),
        tokenizer=make_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**image),
        chat_template=r1.with_opening(CHAT_TEMPLATE),
    )


def make_model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    """The model with random weights, float32.

    Initialisation matters most here: with transformers' default 0.02, models this narrow ignore the image.
    """
    token_id = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
            "initializer_range": 0.06,
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "out_hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": 14,
            "fullatt_block_indexes": [0, 1, 2],
            "initializer_range": 0.06,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token_id("<|im_end|>"), token_id("<|endoftext|>")]
    model.generation_config.pad_token_id = token_id("<|endoftext|>")
    return model

"""The small model's shape, tokenizer and processor: Qwen2.5-VL's architecture, 1.7 million parameters.

transformers, TRL and vLLM load it as they load Qwen/Qwen2.5-VL-3B-Instruct. One merged vision token sees 28 x 28
pixels, the size of a handwritten digit; an 84 x 84 image is 9 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from datagen import r1
from datagen.tasks.digits import DIGITS

SPECIAL_TOKENS = (  # Qwen's, in Qwen's order
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
VOCABULARY = 512

# ChatML with images, as Qwen2.5-VL writes it, one image a placeholder. datagen.r1.with_opening adds the opening words.
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


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 512 tokens trained on `texts`, every digit a token of its own, with Qwen's special tokens.

    There is no splitting at spaces: a sentence that every prompt repeats becomes one token, which keeps prompts short.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return fast


def corpus() -> list[str]:
    """What the tokenizer is trained on: the prompts about digits, and the fixed words around their answers."""
    pieces = ["system\n", "user\n", "assistant\n", "\n", r1.OPENING]
    for task in DIGITS.tasks:
        example = {"digits": [1, 2, 3]}
        prompt = [message["content"] for message in r1.messages(task.ask(example), task.answer(example))]
        pieces += [*prompt, "I see ", ", ", ". ", " + ", " = ", ".</think>\n<answer>", "</answer>", "[", "]"]
    return pieces * 10


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
        tokenizer=make_tokenizer(corpus()),
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

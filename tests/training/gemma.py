"""Gemma 3 with random weights: one layer, images of 56 pixels in 4 tokens, and the published chat template."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Gemma3ImageProcessor, Gemma3Processor

from tests.training.architectures import tokenizer

TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""
IMAGE_TOKENS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
TOKENS = ("<|endoftext|>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *IMAGE_TOKENS.values())


def shrunk_gemma(folder: Path) -> Path:
    """Gemma 3 as a checkpoint in a folder. Its `eos_token` is `<eos>`, and a turn ends with `<end_of_turn>`."""
    words = tokenizer(TOKENS, "<eos>")
    words.bos_token = "<bos>"
    words._set_model_specific_special_tokens(IMAGE_TOKENS)
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56}, do_convert_rgb=None)
    processor = Gemma3Processor(images, words, chat_template=TEMPLATE, image_seq_length=4)
    ids = words.convert_tokens_to_ids
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 576, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 64}
    text |= {"eos_token_id": ids("<eos>"), "pad_token_id": ids("<|endoftext|>"), "bos_token_id": ids("<bos>")}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=common | text,
        vision_config=common | {"image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        image_token_id=ids("<image_soft_token>"),
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = [ids("<eos>"), ids("<end_of_turn>")]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

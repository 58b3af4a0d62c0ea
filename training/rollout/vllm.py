"""Rollouts of a vision-language model with vLLM: the same tokens as the trainer's.

Colocated, TRL 1.16 hands vLLM prompts whose image placeholders are already expanded. vLLM expands them again, and
answers a question about a broken image (TRL #6294, #6401; pull request #6718): `rollout_func` can go when that is
released. In server mode TRL sends the tokens and the images' features apart, so that nothing is expanded twice.
`training.trl_compat` sees to weights and precision.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from datagen.dataset.reader import image_sizes
from datagen.hub.chat_template import check_image_counts
from training.rollout.parity import check_same_prompts, images_of, render
from training.rollout.protocols import GRPOTrainerLike, Processor

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is experimental: TRL's version is pinned


def rollout_func(prompts: list[list[dict[str, Any]]], trainer: GRPOTrainerLike) -> dict[str, list[Any]]:
    """TRL's rollout function: what the trainer's vLLM answers to conversations that have their images in them.

    Returns for each conversation its `prompt_ids` as the trainer has them, the `completion_ids`, and the `logprobs`
    that those were sampled with.

    Raises:
        UserError: where vLLM read other tokens than the trainer, with the first difference.
    """
    processor, vllm = trainer.processing_class, trainer.vllm_generation
    texts = render(prompts, trainer, tokenize=False)
    check_image_counts(texts, [len(images_of(prompt)) for prompt in prompts], processor)
    ours = render(prompts, trainer, tokenize=True, return_dict=True)["input_ids"]
    sent = ours
    if vllm.mode == "colocate":
        sent = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    generations = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    read, completions, logprobs, _ = vllm.generate(sent, [images_of(prompt) for prompt in prompts], generations)
    check_same_prompts(ours, read, processor)
    sampled = [[token[0] for token in sequence] for sequence in logprobs]  # of the sampled token alone
    return {"prompt_ids": ours, "completion_ids": completions, "logprobs": sampled}


def longest_prompt(questions: Any, processor: Processor) -> int:
    """The most tokens a prompt of the dataset can have: those of its longest text and of its largest images."""
    shown = image_sizes(questions)
    texts = list({str(prompt): prompt for prompt in questions["prompt"]}.values())

    def tokens(text: Any, sizes: Iterable[tuple[int, int]]) -> int:
        prompt = prepare_multimodal_messages(text, images=[Image.new("RGB", size) for size in sizes])
        encoding = processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=True, return_dict=True)
        return len(encoding["input_ids"][0])

    some_text, some_sizes = texts[0], min(shown)
    longest_text = max(tokens(text, some_sizes) for text in texts)
    largest_images = max(tokens(some_text, sizes) for sizes in shown)
    return longest_text + largest_images - tokens(some_text, some_sizes)

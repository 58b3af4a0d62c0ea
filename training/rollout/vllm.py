"""Rollouts of a vision-language model with vLLM: the same tokens, weights and precision as the trainer's.

TRL 1.16 does not do this by itself. Each part here names what ends it, and goes when that is released:

- `rollout`: colocated, TRL hands vLLM prompts whose image placeholders are already expanded. vLLM expands them again,
  and answers a question about a broken image (TRL #6294, #6401; pull request #6718).
- `Rollouts.sync_weights`: what the vision tower made of an image stays in vLLM's cache when its weights change (TRL
  #7198; pull request #7200). And on a CPU new weights do not arrive at all: vLLM has repacked its linear layers and
  dropped their weights (`dispatch_cpu_unquantized_gemm` in its `model_executor/layers/utils.py`), which TRL's way of
  writing into the layers does not expect. vLLM's own `reload_weights` packs them again.
- `Rollouts._iter_named_params`: TRL merges an adapter into the weights and takes it out again at every step. What that
  rounds off adds up: in bfloat16 the base is a quarter of the adapter's size away from itself after 200 steps (TRL
  #6688), and the adapter that is saved was trained on weights that nobody has.
- `engine_for`: TRL has no settings for vLLM's precision and images a prompt (TRL #6776; pull request #6816).

In server mode TRL sends the tokens and the images' features apart, so that nothing is expanded twice; the cache is
stale there too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from unittest.mock import patch

import torch
from datasets import Image as ImageColumn
from peft.tuners.lora import LoraLayer
from PIL import Image
from trl.data_utils import prepare_multimodal_messages
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from training.rollout.parity import check_same_prompts, images_of, precision, render

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is experimental: TRL's version is pinned


def rollout_func(prompts: list[list[dict[str, Any]]], trainer: Any) -> dict[str, list[Any]]:
    """TRL's rollout function: what the trainer's vLLM answers to conversations that have their images in them.

    Returns for each conversation its `prompt_ids` as the trainer has them, the `completion_ids`, and the `logprobs`
    that those were sampled with.

    Raises:
        UserError: where vLLM read other tokens than the trainer, with the first difference.
    """
    processor, vllm = trainer.processing_class, trainer.vllm_generation
    ours = render(prompts, trainer, tokenize=True, return_dict=True)["input_ids"]
    asked = ours
    if vllm.mode == "colocate":
        asked = processor.tokenizer(render(prompts, trainer, tokenize=False), add_special_tokens=False)["input_ids"]
    generations = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    read, completions, logprobs, _ = vllm.generate(asked, [images_of(prompt) for prompt in prompts], generations)
    check_same_prompts(ours, read, processor)
    sampled = [[token[0] for token in sequence] for sequence in logprobs]  # of the sampled token alone
    return {"prompt_ids": ours, "completion_ids": completions, "logprobs": sampled}


class SyncedVLLMGeneration(VLLMGeneration):  # type: ignore[misc]
    """TRL's vLLM, in this process or on a server, with weights that arrive and no stale images."""

    def sync_weights(self) -> None:
        """Give vLLM the trainer's weights; collective over the trainer's processes."""
        if self.mode == "colocate" and self.accelerator.device.type == "cpu":
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._iter_named_params()})
            self.llm.apply_model(pack_output_layer)
            self.llm.reset_prefix_cache()
        else:
            super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            client = self.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights under the names that vLLM knows, an adapter's merged into a copy of what it adapts."""
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, LoraLayer)}
        if self._dist.is_fsdp or self._dist.is_zero3 or not layers or not all(map(is_plain, layers.values())):
            yield from super()._iter_named_params()
            return
        for name, value in self.model.named_parameters():
            if self.model.prefix in name or "original_module" in name:
                continue
            weight, stem = value.data, name.removesuffix(".base_layer.weight")
            if stem != name:
                for adapter in layers[stem].active_adapters:
                    weight = weight + layers[stem].get_delta_weight(adapter).to(weight.dtype)
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            yield self._fix_param_name_to_vllm(plain, ["modules_to_save.default."]), weight


def is_plain(layer: Any) -> bool:
    """Whether what a LoRA layer adds is `get_delta_weight` alone: it is not quantised, and no variant such as DoRA."""
    return (
        type(layer).__module__ == LoraLayer.__module__ and not layer.lora_variant and not any(layer.lora_bias.values())
    )


def pack_output_layer(model: Any) -> None:
    """Pack the output layer of vLLM's model for a CPU again.

    Where it shares the embedding's weights, `reload_weights` packs the embedding alone ("Tied parameters" in
    `vllm/model_executor/model_loader/reload/__init__.py`).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


@contextmanager
def engine_for(args: Any, images: dict[str, Any] | None = None) -> Iterator[None]:
    """A trainer that is made inside has `Rollouts`, and a colocated vLLM of its own precision, seed and images.

    `args` is the trainer's GRPOConfig, `images` what is changed of the model's image processor.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of every change to the number of threads

    def engine(**options: Any) -> Any:
        from vllm import LLM

        # TRL seeds an engine with its number alone: runs with different seeds would sample alike.
        options["seed"] += args.seed * args.world_size
        options |= {"limit_mm_per_prompt": {"image": 1, "video": 0}, "mm_processor_kwargs": images}
        return LLM(**options, dtype=precision(args), enforce_eager=on_cpu)

    with (
        patch.object(grpo_trainer, "VLLMGeneration", SyncedVLLMGeneration),
        patch.object(vllm_generation, "LLM", engine, create=True),
    ):
        yield


def longest_prompt(questions: Any, processor: Any) -> int:
    """The most tokens a prompt of the dataset can have: those of its longest text and of its largest image."""
    encoded = questions.select_columns("image").cast_column("image", ImageColumn(decode=False))
    sizes = {Image.open(BytesIO(row["image"]["bytes"])).size for row in encoded}
    texts = list({str(prompt): prompt for prompt in questions["prompt"]}.values())

    def tokens(text: Any, size: tuple[int, int]) -> int:
        prompt = prepare_multimodal_messages(text, images=[Image.new("RGB", size)])
        done = processor.apply_chat_template([prompt], add_generation_prompt=True, tokenize=True, return_dict=True)
        return len(done["input_ids"][0])

    some_text, some_size = texts[0], min(sizes)
    longest_text = max(tokens(text, some_size) for text in texts)
    largest_image = max(tokens(some_text, size) for size in sizes)
    return longest_text + largest_image - tokens(some_text, some_size)

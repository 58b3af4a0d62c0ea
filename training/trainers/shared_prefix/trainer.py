"""A mixin for TRL's trainer: what the completions of a group share, their image and their prompt, is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from datagen.hub.generation import draw, first_rows, sample
from training.rollout.parity import is_split
from training.trainers.shared_prefix.packing import ATTENTION, pack

PER_IMAGE = ("pixel_values", "image_grid_thw")  # Qwen's, which have no row for each row of a batch
PIXELS = ("pixel_values", "pixel_attention_mask")
IMAGE_INPUTS = {"pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "mm_token_type_ids"}
# Settings of sampling under which a completion depends on more than its own last distribution, and values that do not.
PLAIN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "penalty_alpha": (None,),
    "prompt_lookup_num_tokens": (None,),
    "guidance_scale": (None, 1.0),
    "stop_strings": (None,),
    "max_time": (None,),
    "watermarking_config": (None,),
    "cache_implementation": (None,),
}


class SharingError(Exception):
    """The prompts of a batch can't be shared: the sentence says why."""


class SharedPrefix(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer. `share_prefixes` turns it on; until then everything is TRL's.

    Private parts of TRL that it overrides are listed in `training.trl_compat`.
    """

    shares_loss = False
    shares_generation = False
    draw = staticmethod(draw)
    processing_class: Any
    prompt_group: Tensor | None = None  # the prompt of each row of the batch at hand

    def share_prefixes(self) -> None:
        """Share prompts from now on, in the loss and, where transformers generates, in generation.

        Raises:
            SharingError: where that can't be.
        """
        if reason := loss_obstacle(self):
            raise SharingError(reason)
        for model in (self.model, self.ref_model):
            if model is not None:
                # A model with another attention would take no notice of the layout, and give wrong numbers.
                self.base_of(model).set_attn_implementation({"text_config": ATTENTION})
        self.shares_loss = True
        self.shares_generation = not generation_obstacle(self)

    def base_of(self, model: Any) -> Any:
        """The model of transformers inside wrappers and adapters."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    @contextmanager
    def groups(self, group: Tensor | None) -> Iterator[None]:
        """Inside, the batch at hand has these prompts; each row has one of its own where it is None."""
        before, self.prompt_group = self.prompt_group, group
        try:
            yield
        finally:
            self.prompt_group = before

    def groups_of(self, rows: int) -> Tensor:
        """The prompt of each of so many rows of this process: whole groups stand one after the other, over all."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        places = torch.arange(rows) + self.accelerator.process_index * rows
        group: Tensor = places // size - places[0] // size
        return group.to(self.accelerator.device)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.shares_loss:
            plain: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return plain
        group = self.groups_of(len(inputs))
        processor = self.processing_class
        self.processing_class = DistinctPrompts(processor, group.tolist())
        try:
            with self.groups(group):
                batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class = processor
        batch["prompt_group"] = group
        return batch

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], list[Any] | None, dict[str, Any]]:
        if not self.shares_generation or self.prompt_group is None:
            every: tuple[list[list[int]], list[Any] | None, dict[str, Any]] = super()._tokenize_prompts(prompts)
            return every
        group = self.prompt_group.tolist()
        ids, images, fields = super()._tokenize_prompts([prompts[row] for row in first_rows(group)])
        return [ids[one] for one in group], images and [images[one] for one in group], fields

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *options: Any, **more: Any
    ) -> Any:
        if not self.shares_generation or self.prompt_group is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *options, **more)
        distinct = [prompt_ids[row] for row in first_rows(self.prompt_group.tolist())]
        model = self.accelerator.unwrap_model(self.model_wrapped)
        once = partial(sample, group=self.prompt_group, draw=self.draw)
        with patch.object(model, "generate", partial(model.generate, custom_generate=once)):
            return super()._generate_single_turn(distinct, images, multimodal_fields, *options, **more)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self.shares_loss:
            return super()._prepare_inputs(generation_batch)
        with patch.object(grpo_trainer, "shuffle_sequence_dict", shuffle_groups):
            return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        with self.groups(inputs.get("prompt_group")):
            return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(  # noqa: PLR0917 - TRL's
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self.shares_loss:
            plain: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **images,
            )
            return plain
        base = self.base_of(model)
        attention = base.config.get_text_config()._attn_implementation
        if attention != ATTENTION:
            raise RuntimeError(f"the attention of {type(base).__name__} is {attention}, which knows no shared prompts")
        group = torch.arange(len(input_ids)) if self.prompt_group is None else self.prompt_group
        logps, entropies = [], []
        for rows in torch.split(torch.arange(len(input_ids)), batch_size or len(input_ids)):
            _, own = torch.unique(group.cpu()[rows], return_inverse=True)
            first = rows[first_rows(own.tolist())]
            prompts = input_ids[first, :-logits_to_keep], attention_mask[first, :-logits_to_keep]
            chosen = select_images(images, first.tolist())
            types = images.get("mm_token_type_ids")
            types = None if types is None else types[first, :-logits_to_keep]
            positions = prompt_positions(base.base_model, *prompts, chosen, types)
            completions = input_ids[rows, -logits_to_keep:], attention_mask[rows, -logits_to_keep:]
            row = pack(*prompts, positions, *completions, group=own.to(input_ids.device))
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=row.ids,
                    position_ids=row.positions,
                    # A mask that transformers takes as it is; the layout says what is seen.
                    attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
                    shift_labels=row.labels,
                    fused_lm_head=True,
                    shared=row.layout,
                    **chosen,
                )
            logps.append(row.by_completion(outputs.log_probs))
            if compute_entropy:
                entropies.append(row.by_completion(outputs.entropy))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None


class DistinctPrompts:
    """A processor that processes each prompt of a batch once. Everything else is the processor's."""

    def __init__(self, processor: Any, group: Sequence[int]) -> None:
        self.processor = processor
        self.group = group

    def __getattr__(self, name: str) -> Any:
        """What is not the call."""
        return getattr(self.processor, name)

    def __call__(self, *, images: Sequence[Any], text: Sequence[str], **options: Any) -> Any:
        """The tensors of all rows, whose images are lists of images, a row each."""
        if len(text) != len(self.group):
            return self.processor(images=images, text=text, **options)
        first = first_rows(self.group)
        encoded = self.processor(images=[images[row] for row in first], text=[text[row] for row in first], **options)
        encoded.update(choose_rows(encoded, [len(images[row] or ()) for row in first], self.group))
        return encoded


def choose_rows(inputs: Mapping[str, Any], counts: Sequence[int], rows: Sequence[int]) -> dict[str, Tensor]:
    """Tensors of a processor at some of its rows, which may come several times. `counts` are the images of each row.

    Tensors have a row for each row, but for those of the images: Qwen's `image_grid_thw` has one for each image, its
    `pixel_values` one for each patch; others may have one for each image where rows show several.
    """
    starts = list(accumulate(counts, initial=0))
    images = [image for row in rows for image in range(starts[row], starts[row + 1])]
    grid = inputs.get("image_grid_thw")
    by_image = [name for name, value in inputs.items() if name in PIXELS and len(value) == sum(counts)]
    chosen = {
        name: value[images if name in by_image else list(rows)]
        for name, value in inputs.items()
        if grid is None or name not in PER_IMAGE
    }
    if grid is not None:
        patches = inputs["pixel_values"].split(grid.prod(-1).tolist())
        chosen |= {"pixel_values": torch.cat([patches[image] for image in images]), "image_grid_thw": grid[images]}
    return chosen


def select_images(inputs: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Tensor]:
    """The images of some rows of a batch as TRL has it, for one packed row.

    Raises:
        SharingError: where it has what is not known to be an image's.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    if odd := given.keys() - IMAGE_INPUTS:
        raise SharingError(f"the model takes {', '.join(sorted(odd))}")
    pixels = {name: given[name] for name in (*PER_IMAGE, "pixel_attention_mask") if name in given}
    if not pixels:
        return {}
    chosen = choose_rows(pixels, given["num_images"], rows)
    if "image_grid_thw" in chosen or chosen["pixel_values"].dim() == 4:
        return chosen
    return {name: value.flatten(0, 1)[None] for name, value in chosen.items()}  # (rows, images, ...), as Idefics has it


def prompt_positions(base: Any, ids: Tensor, mask: Tensor, images: Mapping[str, Any], types: Tensor | None) -> Tensor:
    """The positions (axes, prompts, width) of the tokens of prompts padded on the left, as the model makes them."""
    if not hasattr(base, "get_rope_index"):
        return (mask.cumsum(1) - 1).clamp(min=0)[None]
    positions: Tensor = base.get_rope_index(
        ids, mm_token_type_ids=types, image_grid_thw=images.get("image_grid_thw"), attention_mask=mask
    )[0]
    return positions


def shuffle_groups(batch: dict[str, Any]) -> dict[str, Any]:
    """In place of TRL's `shuffle_sequence_dict`: groups change their order and stay together.

    Shuffled row by row, each micro-batch would have most of the prompts of the batch, and share little.
    """
    group = batch["prompt_group"].cpu()
    ranks = torch.randperm(len(group)).argsort()  # as many random numbers as TRL takes
    places = ranks.new_full((int(group.max()) + 1,), len(group)).scatter_reduce(0, group, ranks, "amin")
    order = torch.argsort(places[group], stable=True)

    def permute(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[order.to(value.device)] if value.dim() else value
        return value and [value[row] for row in order]

    return {name: permute(value) for name, value in batch.items()}


def loss_obstacle(trainer: Any) -> str | None:
    """Why a trainer's loss can't share prompts; None where it can."""
    text = trainer.base_of(trainer.model).config.get_text_config()
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"the model's attention is {text._attn_implementation}, and prompts are shared in PyTorch's SDPA"
    if others := set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
        return f"the model has layers of {', '.join(sorted(others))}, and prompts are shared in full attention"
    if trainer.tools or trainer.environment_factories:
        return "tools add images after the prompt"
    if trainer.aux_loss_enabled:
        return "the load-balancing loss of experts counts the tokens of each completion"
    return None


def generation_obstacle(trainer: Any) -> str | None:
    """Why a trainer can't sample with shared prompts; None where it can."""
    if trainer.use_vllm:
        return "vLLM shares prompts itself"
    if trainer.use_transformers_continuous_batching:
        return "transformers samples in continuous batches"
    if is_split(trainer):
        return "where weights are split over processes, all of them sample the same number of tokens"
    wanted, usual = trainer.generation_config, trainer.base_of(trainer.model).generation_config
    for name, plain in PLAIN_SAMPLING.items():
        value = getattr(wanted, name, None)
        value = getattr(usual, name, None) if value is None else value
        if value not in plain:
            return f"{name}={value} looks at more than the next token's distribution"
    return None

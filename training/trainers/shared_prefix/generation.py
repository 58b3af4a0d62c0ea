"""Sampling with the prompt once: its cache is computed once a group, and completions that have ended are dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

Draw = Callable[[Tensor, Tensor, int], Tensor]
"""(probabilities, rows, number of all rows) to tokens: probabilities (len(rows), vocabulary) to (len(rows),)."""


def draw(probabilities: Tensor, rows: Tensor, count: int) -> Tensor:
    """A token from each row's distribution."""
    return torch.multinomial(probabilities, 1)[:, 0]


def sample(
    model: Any,
    input_ids: Tensor,
    logits_processor: Callable[[Tensor, Tensor], Tensor],
    generation_config: Any,
    *,
    group: Tensor,
    draw: Draw = draw,
    **inputs: Any,
) -> Tensor:
    """A `custom_generate` of transformers: a completion for each entry of `group`, which names its prompt.

    `input_ids` (prompts, width) are padded on the left; returns (len(group), width + longest). A completion ends with
    an end-of-sequence token, or at the length that `generation_config` allows. `inputs` are what the model takes for
    its first call, images among them.
    """
    # No parameters of their own: `generate` would hand over twice what it does not know from its own methods.
    attention_mask, position_ids, _ = (
        inputs.pop(name) for name in ("attention_mask", "position_ids", "stopping_criteria")
    )
    width, rows = input_ids.shape[1], len(group)
    limit = generation_config.max_length - width
    ends, pad = generation_config._eos_token_tensor, generation_config._pad_token_tensor
    cache = DynamicCache(config=model.config.get_text_config())
    inputs |= {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    first = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **inputs)
    cache.batch_select_indices(group)
    logits = first.logits[:, -1].float()[group]
    # Of models with several axes the first one counts tokens, for the mask; the others go on alike after text.
    axes = position_ids[1:] if position_ids.dim() == 3 else position_ids
    last = axes[..., -1][..., group]
    ids = input_ids[group]
    mask = torch.cat([attention_mask[group], attention_mask.new_ones(rows, limit)], 1)
    done = torch.full((rows, limit), int(pad), dtype=ids.dtype, device=ids.device)
    alive = torch.arange(rows, device=ids.device)
    prompts = ids
    for step in range(limit):
        scores = logits_processor(ids, logits)
        tokens = draw(scores.softmax(-1), alive, rows) if generation_config.do_sample else scores.argmax(-1)
        done[alive, step] = tokens
        kept = (~torch.isin(tokens, ends)).nonzero()[:, 0]
        if not len(kept) or step + 1 == limit:
            break
        if len(kept) < len(alive):
            cache.batch_select_indices(kept)
            alive, tokens, ids, mask, last = alive[kept], tokens[kept], ids[kept], mask[kept], last[..., kept]
        ids = torch.cat([ids, tokens[:, None]], 1)
        logits = (
            model(
                input_ids=tokens[:, None],
                attention_mask=mask[:, : width + step + 1],
                position_ids=(last + step + 1)[..., None],
                past_key_values=cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
    return torch.cat([prompts, done[:, : step + 1]], 1)

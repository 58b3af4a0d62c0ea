"""Generating with what prompts share computed once, and without the completions that have ended.

Trainer and evaluator generate with it where transformers does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm")  # whose numbers the tests compare
Draw = Callable[["Tensor", "Tensor", int], "Tensor"]
"""(probabilities, rows, number of all rows) to tokens: probabilities (len(rows), vocabulary) to (len(rows),)."""


def draw(probabilities: Tensor, rows: Tensor, count: int) -> Tensor:
    """A token from each row's distribution."""
    import torch

    return torch.multinomial(probabilities, 1)[:, 0]


def first_rows(group: Sequence[int]) -> list[int]:
    """The first row of each prompt; `group` has the prompt of each row, a number from 0 on."""
    return [group.index(prompt) for prompt in range(max(group) + 1)]


def sample(
    model: Any,
    input_ids: Tensor,
    logits_processor: Callable[[Tensor, Tensor], Tensor],
    generation_config: Any,
    *,
    group: Tensor,
    tails: tuple[Tensor, Tensor] | None = None,
    draw: Draw = draw,
    **inputs: Any,
) -> Tensor:
    """A `custom_generate` of transformers: a completion for each entry of `group`, which names its prompt.

    `input_ids` (prompts, width) are padded on the left. `tails` are text that follows the prompts: ids and mask
    (len(group), t), padded on the left. Returns (len(group), width + t + longest). A completion ends with an
    end-of-sequence token, or at the length that `generation_config` allows. `inputs` are what the model takes for its
    first call, images among them.
    """
    import torch
    from transformers import DynamicCache

    # No parameters of their own: `generate` would hand over twice what it does not know from its own methods.
    attention_mask, position_ids, _ = (
        inputs.pop(name) for name in ("attention_mask", "position_ids", "stopping_criteria")
    )
    rows = len(group)
    limit = generation_config.max_length - input_ids.shape[1]
    ends, pad = generation_config._eos_token_tensor, generation_config._pad_token_tensor
    cache = DynamicCache(config=model.config.get_text_config())
    # Of models with several axes the first one counts tokens, for the mask; after an image, text goes on alike in all.
    axes = position_ids[1:] if position_ids.dim() == 3 else position_ids[None]
    last = axes[..., -1].amax(0)[group]

    def forward(ids: Tensor, mask: Tensor, steps: Tensor) -> Tensor:
        """The next token's logits (rows, vocabulary), where `ids` (rows, n) stand `steps` behind the last position."""
        positions = (last[:, None] + steps).expand(len(axes), -1, -1)
        options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        positions = positions if position_ids.dim() == 3 else positions[0]
        outputs = model(input_ids=ids, attention_mask=mask, position_ids=positions, **options)
        logits: Tensor = outputs.logits[:, -1].float()
        return logits

    inputs |= {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    first = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **inputs)
    cache.batch_select_indices(group)
    ids, mask = input_ids[group], attention_mask[group]
    if tails is None:
        logits = first.logits[:, -1].float()[group]
    else:
        texts, known = tails
        ids, mask = torch.cat([ids, texts], 1), torch.cat([mask, known], 1)
        steps = known.cumsum(1)
        logits = forward(texts, mask, steps)
        last = last + steps[:, -1]
    prompts, width = ids, ids.shape[1]
    mask = torch.cat([mask, mask.new_ones(rows, limit)], 1)
    done = torch.full((rows, limit), int(pad), dtype=ids.dtype, device=ids.device)
    alive = torch.arange(rows, device=ids.device)
    for step in range(limit):
        scores = logits_processor(ids, logits)
        tokens = draw(scores.softmax(-1), alive, rows) if generation_config.do_sample else scores.argmax(-1)
        done[alive, step] = tokens
        kept = (~torch.isin(tokens, ends)).nonzero()[:, 0]
        if not len(kept) or step + 1 == limit:
            break
        if len(kept) < len(alive):
            cache.batch_select_indices(kept)
            alive, tokens, ids, mask, last = alive[kept], tokens[kept], ids[kept], mask[kept], last[kept]
        ids = torch.cat([ids, tokens[:, None]], 1)
        logits = forward(tokens[:, None], mask[:, : width + step + 1], torch.full_like(tokens[:, None], step + 1))
    return torch.cat([prompts, done[:, : step + 1]], 1)

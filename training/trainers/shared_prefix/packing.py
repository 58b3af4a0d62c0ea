"""Prompts and the completions that share them in one row, and the attention over it.

A group of GRPO has one prompt and several completions. In a packed row every prompt stands once, and each completion
attends to its prompt and to itself. Padding is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "r1vlm_shared_prefix"  # under which transformers knows `attend`
IGNORED = -100  # a label that is not scored


@dataclass(frozen=True)
class Segments:
    """A packed row as segments without padding, for FlashAttention: each prompt, then each completion.

    The keys of a prompt are its own; those of a completion are its prompt's, then its own. `keys` (K,) says where in
    the row each of them is. Segment i has the tokens `query_ends[i]` to `query_ends[i + 1]` of the row and those of
    `keys` that `key_ends` says, both (segments + 1,) in int32. `longest` are upper bounds of both lengths.
    """

    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a packed row belong.

    `prompts` (groups, P) and `completions` (rows, S) say where in the row each token is, 0 for padding; `group` (rows,)
    is the prompt of each completion. `order` (N,) says where each token of the row is among those of `prompts`,
    flattened, and then of `completions`. `visible` (rows, 1, S, P + S) says which a completion's token attends to.
    `segments` says the same for FlashAttention.
    """

    prompts: Tensor
    completions: Tensor
    group: Tensor
    order: Tensor
    visible: Tensor
    segments: Segments


@dataclass(frozen=True)
class PackedRow:
    """A packed row of N tokens: `ids`, `positions` and `labels` (1, N), and its layout.

    `positions` is (axes, 1, N) for models with several. The log-probability of a label is that of the row's place: each
    completion begins with the last token of its prompt, whose output predicts its first token, and lacks its own last.
    `scored` (rows, S) says which tokens of the completions are in the row, the last ones of it, in order.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    layout: Layout
    scored: Tensor

    def by_completion(self, values: Tensor) -> Tensor:
        """Values (1, N) of the row as (rows, S), 0 where a completion has no token."""
        completions = values[0, -int(self.scored.sum()) :]
        return completions.new_zeros(self.scored.shape).masked_scatter(self.scored, completions)


def pack(
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    positions: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    group: Tensor,
) -> PackedRow:
    """The packed row of some prompts and their completions.

    `prompt_ids` and `prompt_mask` (groups, width) are padded on the left, `positions` (axes, groups, width) are those
    of their tokens. `completion_ids` and `completion_mask` (rows, S) are padded on the right; `group` (rows,) is the
    prompt of each. The last token of a prompt is text, so that all axes go on from it alike.
    """
    device, width, longest = prompt_ids.device, prompt_ids.shape[1], completion_ids.shape[1]
    lengths = prompt_mask.sum(1) - 1  # the last token stands before each completion
    steps = torch.arange(int(lengths.max()), device=device)
    known = steps < lengths[:, None]
    column = (width - 1 - lengths[:, None] + steps).clamp(max=width - 1)  # of each token, which are on the left now
    # A completion that is masked out whole keeps a token, whose label is ignored.
    scored = torch.arange(longest, device=device) < completion_mask.sum(1).clamp(min=1)[:, None]
    inputs = torch.cat([prompt_ids[group, -1:], completion_ids[:, :-1]], 1)
    labels = completion_ids.masked_fill(completion_mask == 0, IGNORED)
    prompts, completions = int(known.sum()), int(scored.sum())
    ahead = positions[:, group, -1, None] + torch.arange(longest, device=device)
    at_prompts = positions.gather(2, column.expand(len(positions), -1, -1))
    places = torch.arange(prompts + completions, device=device)
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    seen = known[group][:, None].expand(-1, longest, -1)
    of_prompts = torch.zeros_like(known, dtype=torch.long).masked_scatter(known, places)
    of_completions = torch.zeros_like(scored, dtype=torch.long).masked_scatter(scored, places[prompts:])
    seen_by_each = torch.cat([of_prompts[group], of_completions], 1)
    layout = Layout(
        prompts=of_prompts,
        completions=of_completions,
        group=group,
        order=torch.cat([known.flatten(), scored.flatten()]).nonzero()[:, 0],
        visible=torch.cat([seen, causal.expand(len(group), -1, -1)], 2)[:, None],
        segments=Segments(
            keys=torch.cat([places[:prompts], seen_by_each[torch.cat([known[group], scored], 1)]]),
            query_ends=ends(torch.cat([lengths, scored.sum(1)])),
            key_ends=ends(torch.cat([lengths, lengths[group] + scored.sum(1)])),
            longest=(max(known.shape[1], longest), known.shape[1] + longest),
        ),
    )
    packed = torch.cat([at_prompts[:, known], ahead[:, scored]], 1)
    return PackedRow(
        ids=torch.cat([prompt_ids.gather(1, column)[known], inputs[scored]])[None],
        positions=packed[:, None] if len(packed) > 1 else packed,
        labels=torch.cat([labels.new_full((prompts,), IGNORED), labels[scored]])[None],
        layout=layout,
        scored=scored,
    )


def attend(  # noqa: PLR0917 - as transformers calls it
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: over a packed row where `shared` is its layout, else PyTorch's SDPA.

    `query` is (1, heads, N, dim), `key` and `value` may have fewer heads. Returns (1, N, heads, dim). A packed row goes
    through FlashAttention where that is at hand, else through SDPA.
    """
    if shared is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    if flash_takes(query, dtype, dropout):
        return over_segments(query.to(dtype), key.to(dtype), value.to(dtype), shared.segments, scaling), None
    return over_blocks(query, key, value, shared, {"dropout_p": dropout, "scale": scaling}), None


def flash_takes(query: Tensor, dtype: torch.dtype, dropout: float) -> bool:
    """Whether PyTorch's FlashAttention takes a query, once that is of a type."""
    return (
        query.is_cuda
        and dtype in {torch.bfloat16, torch.float16}
        and dropout == 0  # it has none
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def over_segments(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None) -> Tensor:
    """`attend` over a packed row by FlashAttention, without padding and without a mask."""
    keys, values = (states[0].index_select(1, segments.keys).transpose(0, 1) for states in (key, value))
    outputs = varlen_attn(
        query[0].transpose(0, 1),
        keys,
        values,
        segments.query_ends,
        segments.key_ends,
        *segments.longest,
        scale=scaling,
        window_size=(-1, 0),  # causal, the last query at the last key
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return cast("Tensor", outputs)[None]  # it is a pair where more is asked for


def over_blocks(query: Tensor, key: Tensor, value: Tensor, shared: Layout, options: dict[str, Any]) -> Tensor:
    """`attend` over a packed row by SDPA: prompts and completions as two padded batches."""
    if key.shape[1] != query.shape[1]:
        if query.is_cuda:  # with a mask and fewer keys than queries, CUDA has the slowest kernel alone
            times = query.shape[1] // key.shape[1]
            key, value = repeat_kv(key, times), repeat_kv(value, times)
        else:
            options = {**options, "enable_gqa": True}
    keys, values = take(key, shared.prompts), take(value, shared.prompts)
    # Prompts are padded on the right here: causal attention keeps padding out.
    of_prompts = F.scaled_dot_product_attention(take(query, shared.prompts), keys, values, is_causal=True, **options)
    of_completions = F.scaled_dot_product_attention(
        take(query, shared.completions),
        torch.cat([keys.index_select(0, shared.group), take(key, shared.completions)], 2),
        torch.cat([values.index_select(0, shared.group), take(value, shared.completions)], 2),
        attn_mask=shared.visible,
        **options,
    )
    outputs = torch.cat([one.transpose(1, 2).flatten(0, 1) for one in (of_prompts, of_completions)])
    return outputs.index_select(0, shared.order)[None]


def ends(lengths: Tensor) -> Tensor:
    """Where segments of some lengths (segments,) begin and end: (segments + 1,) in int32, from 0."""
    return F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def take(states: Tensor, places: Tensor) -> Tensor:
    """States (1, heads, N, dim) at some places (rows, length) of a packed row: (rows, heads, length, dim)."""
    chosen = states[0].index_select(1, places.flatten())
    return chosen.reshape(len(chosen), *places.shape, -1).transpose(0, 1)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

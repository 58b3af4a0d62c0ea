#!/usr/bin/env bash
# One would guess that a GenerationConfig handed to `generate` replaces the one that came with the checkpoint.
# In fact whatever it leaves open is filled in from the checkpoint's: with `top_k` 1 there, as Qwen2.5-VL's published
# file has it, `do_sample=True, temperature=5.0` still gives the greedy answer every time, and a published repetition
# penalty comes along. Only naming each value keeps them out. transformers 5.17.0.
# It matters to people who train vision-language models with GRPO because all completions of a group are the same:
# no advantage, no learning, and a log that looks healthy. Upstream: trl issue 5783 (closed: the trainer was changed),
# transformers keeps it. Seen here: 1 different completion of 16 as it is, 16 when top_k is named.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq transformers==5.17.0 torch==2.13.0
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error "$T/venv/bin/python" - <<'PY'
import sys

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
).eval()
model.generation_config.do_sample = True
model.generation_config.top_k = 1  # as in a checkpoint's generation_config.json
prompt = torch.arange(3, 11).repeat(16, 1)
wanted = dict(do_sample=True, temperature=5.0, min_new_tokens=12, max_new_tokens=12)


def different(config):
    torch.manual_seed(1)
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    return len({tuple(row.tolist()) for row in out[:, 8:]})


asked = different(GenerationConfig(**wanted))
named = different(GenerationConfig(**wanted, top_k=0))
model.generation_config.top_k = None
alone = different(GenerationConfig(**wanted))
print(f"different completions of 16: {asked}; top_k named {named}; no top_k in the checkpoint {alone}")
if not (asked == 1 and named > 10 and alone > 10):
    sys.exit("The behaviour differs from the description: the checkpoint's top_k was not filled in.")
PY

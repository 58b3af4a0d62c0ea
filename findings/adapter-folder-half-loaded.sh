#!/usr/bin/env bash
# One would guess that a folder saved by PEFT loads whole in transformers' from_pretrained, or is refused: for plain LoRA it
# is exact to the last bit. In fact what PEFT saves beside LoRA's two matrices is left out: the magnitudes of DoRA, a
# head in modules_to_save, trainable tokens. The folder loads, the status is 0, a table in the log says MISSING and
# UNEXPECTED, and the model answers as nobody trained it. PeftModel.from_pretrained is exact for all four.
# transformers 5.17.0 with PEFT 0.21.2. It matters to people who train vision-language models because evaluation
# scripts and engines load by AutoModel: new answer tokens are just those that are lost. No upstream issue found;
# seen here (largest difference of logits from the trained model): LoRA 0, DoRA 0.2, modules_to_save 3, tokens 0.3.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq peft==0.21.2 transformers==5.17.0 torch==2.13.0
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error "$T/venv/bin/python" -W ignore - <<'PY' 2> load.log
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )
).save_pretrained("base")
prompt = torch.arange(3, 13)[None]
kinds = {
    "LoRA": {}, "DoRA": {"use_dora": True}, "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trainable tokens": {"trainable_token_indices": [3, 4]},
}
far = {}
with torch.no_grad():
    for kind, options in kinds.items():
        torch.manual_seed(3)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained("base"),
            LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options),
        ).eval()
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
        trained = model(prompt).logits
        model.save_pretrained(kind)
        by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), kind).eval()(prompt).logits
        by_auto = AutoModelForCausalLM.from_pretrained(kind).eval()(prompt).logits
        far[kind] = (by_auto - trained).abs().max().item()
        exact = torch.equal(by_peft, trained)
        print(f"{kind}: difference by transformers {far[kind]:.3f}, by PEFT {'none' if exact else 'some'}")
        if not exact:
            sys.exit(1)
if far.pop("LoRA") > 1e-5 or min(far.values()) < 0.05:
    print("The behaviour differs from the description: see which kinds were loaded whole above.")
    sys.exit(1)
PY

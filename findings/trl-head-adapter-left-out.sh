#!/usr/bin/env bash
# One would guess that TRL's loss is computed with all of an adapter, also with a LoRA on the output head (`lm_head`).
# In fact SFTTrainer and GRPOTrainer take the head's `weight`, and PEFT gives that of the layer below the adapter: the
# head's LoRA gets no gradient and stays as it was, while every other LoRA is trained; no warning. A head that has an
# adapter already is worse: `generate` uses it, and the log-probabilities in the loss do not.
# TRL 1.16.0, PEFT 0.21.2, transformers 5.17.0.
# It matters to people who train new answer formats or tokens with LoRA because the head is then named in
# `target_modules`, and to those who train on from such an adapter, with log-probabilities of another model.
# Upstream: noted in the reviews of huggingface/trl#5676 and huggingface/trl#7017; no issue found.
# Seen here: the largest weight of lora_B after 3 steps is 0 in the head, and not in the attention, for both trainers.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq trl==1.16.0 peft==0.21.2 transformers==5.17.0 torch==2.13.0 accelerate==1.15.0 datasets==5.2.0
cd "$T"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error "$T/venv/bin/python" - <<'PY'
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

WORDS = ["<pad>", "<eos>", *(f"w{number}" for number in range(30))]
tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
COMMON = {"max_steps": 3, "learning_rate": 0.01, "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
          "disable_tqdm": True, "per_device_train_batch_size": 4, "gradient_checkpointing": False}


def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), tie_word_embeddings=False, eos_token_id=1, pad_token_id=0, **SIZES))


def reward(completion_ids, **_):
    return [float(sum(ids)) for ids in completion_ids]


rows = Dataset.from_list([{"prompt": f"w{row} w1", "completion": f" w{row + 2} w3"} for row in range(8)])
lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "lm_head"])
trainers = {
    "SFTTrainer": SFTTrainer(model(), SFTConfig("sft", **COMMON), train_dataset=rows, processing_class=tokenizer, peft_config=lora),
    "GRPOTrainer": GRPOTrainer(
        model(), reward, GRPOConfig("grpo", num_generations=4, max_completion_length=4, **COMMON),
        train_dataset=rows.remove_columns("completion"), processing_class=tokenizer, peft_config=lora,
    ),
}
found = {}
for name, trainer in trainers.items():
    trainer.train()
    largest = {
        part: max(float(weight.abs().max()) for key, weight in trainer.model.named_parameters() if part in key and "lora_B" in key)
        for part in ("lm_head", "q_proj")
    }
    found[name] = largest["lm_head"] == 0 and largest["q_proj"] > 0
    print(f"{name}: largest weight of lora_B after training: {largest['lm_head']:.4f} in lm_head, {largest['q_proj']:.4f} in q_proj")
if not all(found.values()):
    sys.exit("The behaviour differs from the description.")
PY

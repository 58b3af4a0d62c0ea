#!/usr/bin/env bash
# One would guess that a GRPOTrainer whose dataset has fewer prompts than one batch of completions asks either trains on
# smaller batches, as other trainers do with their last batch, or ends with an error. In fact its sampler leaves out every
# batch that is not full, also where that is the only one: `train()` takes no step, writes a warning that speaks of
# IterableDataset, and returns as after a good run, and `save_model` saves the weights that it was given. TRL 1.16.0,
# transformers 5.17.0. It matters for trials on a handful of prompts, and on more GPUs than before: the batch grows with
# them. Whoever scores the result finds that training has changed nothing. No issue was found.
# Seen here: with 4 prompts and room for 4 in a batch six steps; with 3 no step, no error, and the same weights.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq trl==1.16.0 transformers==5.17.0 torch==2.13.0 datasets==5.2.0 accelerate==1.15.0
cd "$T"
export HF_HOME="$T/hf" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error
"$T/venv/bin/python" - <<'PY' 2>stderr || { tail -5 stderr; exit 1; }
import sys
import warnings

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

warnings.filterwarnings("ignore")
disable_progress_bars()
words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(29))]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
shape = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    pad_token_id=0, eos_token_id=1, bos_token_id=None,
)


def run(prompts):
    """Steps of a run of six with so many prompts, where a batch of 16 completions has room for 4; whether weights moved."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape)
    before = [value.detach().clone() for value in model.parameters()]
    args = GRPOConfig(
        output_dir="out", max_steps=6, save_strategy="no", per_device_train_batch_size=16, num_generations=4,
        max_completion_length=8, learning_rate=1e-2, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, seed=1,
    )
    trainer = GRPOTrainer(
        model, lambda completions, **_: [float(text.count("w1")) for text in completions], args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"w{i} w{i + 1}" for i in range(prompts)]}),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    steps = trainer.train().global_step
    moved = any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    return steps, moved


found = {prompts: run(prompts) for prompts in (4, 3)}
for prompts, (steps, moved) in found.items():
    print(f"{prompts} prompts: {steps} steps, weights {'moved' if moved else 'as they were'}, no error")
if found != {4: (6, True), 3: (0, False)}:
    print("This has changed: see above.")
    sys.exit(1)
PY

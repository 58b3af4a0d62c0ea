#!/usr/bin/env bash
# One would guess that a run of TRL's GRPOTrainer that is resumed from a checkpoint takes the steps that it would have taken:
# transformers saves optimizer, scheduler, random state and the place in the data. In fact, with `num_iterations` or
# `steps_per_generation` above 1, several steps train on the same sampled completions, and these are in no checkpoint. A
# checkpoint between two such steps goes on with completions that are sampled anew, and its batches stay out of step with
# the data from there on, so that it trains on other questions. No error, no warning; behind a whole batch it is exact.
# TRL 1.16.0, transformers 5.17.0. It matters for every requeued job: with save_steps=3 and num_iterations=2 half of the
# checkpoints are of this kind. TRL pull request #3148 made it run; that the steps differ is not said there.
# Seen here: gradient norms of steps 4 to 6, the same behind step 2, others behind step 3.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq trl==1.16.0 transformers==5.17.0 torch==2.13.0 datasets==5.2.0 accelerate==1.15.0
cd "$T"
export HF_HOME="$T/hf" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error
"$T/venv/bin/python" - <<'PY' 2>stderr || { tail -5 stderr; exit 1; }
import shutil
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
prompts = Dataset.from_dict({"prompt": [f"w{i} w{i + 1}" for i in range(16)]})


def run(out, save_steps, resume=None):
    """The gradient's norm at each step of a run of six, in which each batch of completions serves two steps."""
    torch.manual_seed(0)
    args = GRPOConfig(
        output_dir=out, max_steps=6, save_steps=save_steps, num_iterations=2, per_device_train_batch_size=4,
        num_generations=4, max_completion_length=8, learning_rate=1e-2, logging_steps=1, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=1,
    )
    trainer = GRPOTrainer(
        LlamaForCausalLM(shape), lambda completions, **_: [float(text.count("w1")) for text in completions],
        args=args, train_dataset=prompts, processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    norms = {row["step"]: round(row["grad_norm"], 5) for row in trainer.state.log_history if "grad_norm" in row}
    return [norms[step] for step in range(1, 7)]


same = []
for save_steps in (2, 3):
    whole = run(f"whole-{save_steps}", save_steps)
    again = run("again", save_steps, resume=f"whole-{save_steps}/checkpoint-{save_steps}")
    shutil.rmtree("again")
    same.append(whole == again)
    print(f"resumed behind step {save_steps}: steps 4 to 6 {again[3:]}; never stopped: {whole[3:]}")
if same != [True, False]:
    print("This has changed: see above.")
    sys.exit(1)
PY

#!/usr/bin/env bash
# One would guess that GRPOTrainer logs two reward functions of one name apart, or refuses them: `def reward` in two
# files, `accuracy.reward` and `format.reward`, is what a recipe looks like. In fact the log has one line `rewards/reward/mean`,
# which is the mean of both: a format that is always right and an answer that is always wrong show as 0.5. The training
# itself takes each. TRL 1.16.0. No issue was found.
# It matters because that curve is what one looks at to see whether the answers or only the format improve.
# Seen here: rewards/reward/mean 0.5, where the functions return 1.0 and 0.0; with two names 1.0 and 0.0.
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


def named(value, name):
    """A reward function that always returns a value."""

    def reward(completions, **_):
        return [value] * len(completions)

    reward.__name__ = name
    return reward


def logged(first, second):
    """What the first step of a run logs of two rewards with these names."""
    args = GRPOConfig(
        output_dir="out", max_steps=1, save_strategy="no", per_device_train_batch_size=4, num_generations=4,
        max_completion_length=8, report_to="none", use_cpu=True, bf16=False, logging_steps=1,
        gradient_checkpointing=False, disable_tqdm=True, seed=1,
    )
    trainer = GRPOTrainer(
        LlamaForCausalLM(shape), [named(1.0, first), named(0.0, second)], args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"w{i} w{i + 1}" for i in range(4)]}),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    figures = trainer.state.log_history[0].items()
    return {name: value for name, value in figures if name.startswith("rewards/") and name.endswith("/mean")}


seen = [logged("accuracy", "format"), logged("reward", "reward")]
print(*seen)
if seen != [{"rewards/accuracy/mean": 1.0, "rewards/format/mean": 0.0}, {"rewards/reward/mean": 0.5}]:
    sys.exit("The behaviour differs from the description: such functions are logged in another way.")
PY

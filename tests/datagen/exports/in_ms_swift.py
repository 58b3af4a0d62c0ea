"""Run by ms-swift's Python: a step of its GRPO on exported questions, and its judging of given answers.

Arguments: the exported folder, a model, a JSON file of [question's id, completion], and a file for what was found.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from in_tool import command
from swift.pipelines import rlhf_main
from swift.rl_core.data import GRPOSample
from swift.rlhf_trainers import GRPOTrainer
from swift.template.templates.qwen import Qwen2_5VLTemplate

SETTINGS = (
    "--max_steps 1 --per_device_train_batch_size 2 --num_generations 2 --max_completion_length 8 --torch_dtype float32 "
    "--use_cpu true --bf16 false --fp16 false --tuner_type full --save_strategy no --eval_strategy no --report_to none "
    "--model_type qwen2_5_vl --template qwen2_5_vl --gradient_accumulation_steps 1 --dataloader_num_workers 0"
)
folder, model, answers, out = map(Path, sys.argv[1:])
asked: list[dict[str, Any]] = []
trainers: list[Any] = []


def encode(template: Any, inputs: Any) -> Any:
    """Keep what the model gets: the prompt's text, and the image. For its log ms-swift encodes a prompt without it."""
    encoded = own_encode(template, inputs)
    text = template.tokenizer.decode(encoded["input_ids"])
    for image in inputs.images:
        pixels = base64.b64encode(image.tobytes()).decode()
        asked.append({"text": text, "mode": image.mode, "size": image.size, "pixels": pixels})
    return encoded


def judge(trainer: Any, samples: list[Any]) -> Any:
    """Keep the trainer."""
    trainers.append(trainer)
    return own_judge(trainer, samples)


Qwen2_5VLTemplate.image_token_id = 475  # it has Qwen's number written down; the built-in model numbers its own tokens
own_encode, Qwen2_5VLTemplate._encode = Qwen2_5VLTemplate._encode, encode
own_judge, GRPOTrainer._compute_rewards_per_func = GRPOTrainer._compute_rewards_per_func, judge
rlhf_main([*command(folder, MODEL=model, FOLDER=folder / "run")[2:], *SETTINGS.split()])
[trainer] = trainers
assert asked  # by the step
asked.clear()
template = trainer.engine.template  # of the generation
rows = {json.loads(row["r1vlm"])["id"]: row for row in trainer.train_dataset}
for row in rows.values():
    template.encode({"messages": row["messages"], "images": row["images"]})
samples = []
for name, text in json.loads(answers.read_text()):
    said = {"role": "assistant", "content": template._get_response_prefix() + text}
    samples.append(GRPOSample.from_row({**rows[name], "messages": [*rows[name]["messages"], said]}))
rewards = trainer._compute_rewards_per_func(samples).tolist()
found = {"prompts": dict(zip(rows, asked, strict=True)), "rewards": rewards, "reward_names": trainer.reward_func_names}
out.write_text(json.dumps(found))

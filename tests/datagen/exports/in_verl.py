"""Run by verl's Python: its loader, its prompt and its reward manager on exported questions.

Arguments: the exported folder, a model, a JSON file of [question's id, completion], and a file for what was found.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from in_tool import Bytes, command, padded
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils import hf_processor, hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

folder, model, answers, out = map(Path, sys.argv[1:])
overrides = [word for word in command(folder, MODEL=model) if "=" in word]
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides)

tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
processor = hf_processor(config.actor_rollout_ref.model.path)
questions = RLHFDataset(config.data.train_files, tokenizer, config.data, processor)
batch = DataProto.from_single_dict(collate_fn([questions[i] for i in range(len(questions))]))
names = {row["index"]: i for i, row in enumerate(batch.non_tensor_batch["extra_info"])}


async def shown(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model gets, as verl's agent loop makes it: the prompt's text, and the image."""
    images, _, _ = await RLHFDataset.process_multi_modal_info(messages, questions.image_patch_size, config.data)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    [image] = images
    processor(text=[text], images=images)
    [given] = [part["image"] for part in messages[1]["content"] if part["type"] == "image"]
    return {
        "text": text,
        "pixels": base64.b64encode(given.convert("RGB").tobytes()).decode(),
        "mode": given.mode,
        "size": image.size,
    }


async def main() -> None:
    """Write the prompts of all questions, and the rewards of all answers."""
    prompts = [await shown(messages) for messages in batch.non_tensor_batch["raw_prompt"]]
    manager = load_reward_manager(config, Bytes())
    rewards = []
    for name, text in json.loads(answers.read_text()):
        row = batch[[names[name]]]
        ids, seen = padded(text)
        data = DataProto(TensorDict({"responses": ids, "attention_mask": seen}, batch_size=1), row.non_tensor_batch)
        rewards.append(await manager.run_single(data))
    out.write_text(json.dumps({"names": list(names), "prompts": prompts, "rewards": rewards}))


asyncio.run(main())

"""Run by verl's Python on a checkout of EasyR1: its loader, its prompt and its reward manager on exported questions.

Arguments: the checkout, the exported folder, a model, a JSON file of [question's id, completion], and a file for what
was found.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from in_tool import Bytes, command, padded
from omegaconf import OmegaConf
from tensordict import TensorDict

checkout, folder, model, answers, out = map(Path, sys.argv[1:])
sys.path.insert(0, str(checkout))  # its package is called verl, too
sys.modules["verl.workers.rollout.vllm_rollout_spmd"] = MagicMock()  # needs vLLM; nothing is generated here

from verl.protocol import DataProto  # noqa: E402
from verl.trainer.config import PPOConfig  # noqa: E402
from verl.trainer.data_loader import create_dataloader  # noqa: E402
from verl.utils.dataset import process_image  # noqa: E402
from verl.utils.tokenizer import get_processor, get_tokenizer  # noqa: E402
from verl.workers.reward import AutoRewardManager  # noqa: E402

file, *settings = [word for word in command(folder, MODEL=model) if "=" in word]
defaults = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(checkout / file.partition("=")[2]))
config = OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.from_dotlist(settings)))
config.deep_post_init()
path = config.worker.actor.model.model_path
tokenizer = get_tokenizer(path, config.data.override_chat_template)
loader, _ = create_dataloader(config.data, tokenizer, get_processor(path, config.data.override_chat_template))


def shown(question: dict[str, Any]) -> dict[str, Any]:
    """What the model gets: the prompt's text, and the image."""
    [image] = question["multi_modal_data"]["images"]
    given = process_image(image, config.data.min_pixels, config.data.max_pixels)
    text = tokenizer.decode(question["raw_prompt_ids"])
    return {"text": text, "size": given.size, "pixels": base64.b64encode(given.tobytes()).decode()}


questions = [loader.dataset[i] for i in range(len(loader.dataset))]
truths = {json.loads(question["ground_truth"])["id"]: question["ground_truth"] for question in questions}
manager = AutoRewardManager(config.worker.reward, Bytes())
rewards = []
for name, text in json.loads(answers.read_text()):
    ids, mask = padded(text)
    tensors = TensorDict({"responses": ids, "response_mask": mask}, batch_size=1)
    data = DataProto(tensors, {"ground_truth": np.array([truths[name]], dtype=object)})
    reward, metrics = manager.compute_reward(data)
    rewards.append({"total": reward.sum().item(), **{key: value for key, [value] in metrics.items()}})
prompts = dict(zip(truths, map(shown, questions), strict=True))
out.write_text(json.dumps({"prompts": prompts, "rewards": rewards}))

"""Held-out accuracy while a model trains: greedy answers to validation questions, judged by the training's own rewards.

The sampled reward goes on rising when a model has begun to lose accuracy; the best checkpoint is kept beside the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl.models.utils import unwrap_model_for_generation

from datagen.environment import advance
from datagen.hub.chat_template import check_image_counts
from datagen.interaction import Episode
from datagen.r1_format import full_message
from datagen.registry import find_task
from datagen.task import score
from training.rollout.multi_turn import conversation
from training.rollout.parity import images_of, render
from training.rollout.protocols import GRPOTrainerLike

QUESTIONS = 200  # of validation, the first: a standard error of at most 3.5 points
BEST = "best"  # a link to the best checkpoint


class ValidationCallback(TrainerCallback):  # type: ignore[misc]
    """Every `eval_steps` steps, and at the end: scores `questions` and saves; `best` in the run folder is kept right.

    `weights` are the rewards' by name; their weighted sum decides what is best, the earlier of equals. `trainer` is set
    behind. The scores are logged as `held_out/NAME`.
    """

    trainer: GRPOTrainerLike

    def __init__(self, questions: Any, weights: dict[str, float]) -> None:
        self.questions = questions.select(range(min(QUESTIONS, len(questions))))
        self.weights = weights

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score what the step has made, and have it saved."""
        if state.global_step % state.eval_steps and state.global_step < state.max_steps:
            return
        with eval_mode(self.trainer.model):
            means = self.mean_rewards()
            if (features := getattr(self.trainer, "image_features", None)) is not None:
                features.forget()  # they would take memory until the next generation
            total = sum(self.weights[name] * mean for name, mean in means.items())
            log_step = control.should_log  # which any log resets, so that the step's own figures would go into the next
            with patch.object(
                self.trainer, "log_completions", False, create=True
            ):  # the step's own log has their table
                self.trainer.log(
                    {"held_out/reward": total, **{f"held_out/{name}": mean for name, mean in means.items()}}
                )
            control.should_log = log_step
        if state.best_metric is None or total > state.best_metric:
            state.best_metric, state.best_global_step = total, state.global_step
        control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let `best` be the best checkpoint; it is replaced in one step."""
        if state.is_world_process_zero and state.best_global_step:
            link, temporary = Path(args.output_dir, BEST), Path(args.output_dir, f".{BEST}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(f"checkpoint-{state.best_global_step}")
            os.replace(temporary, link)

    def mean_rewards(self) -> dict[str, float]:
        """The mean of each reward over the questions, which the trainer's processes share evenly; the same on each."""
        accelerator = self.trainer.accelerator
        share = max(1, len(self.questions) // accelerator.num_processes)
        rows = [self.questions[(accelerator.process_index * share + i) % len(self.questions)] for i in range(share)]
        played = zip(rows, play(self.trainer, rows), strict=True)
        scores = [score(find_task(row["task"]), episode, row) for row, episode in played]
        everywhere = gather_object(scores)
        return {name: sum(one[name] for one in everywhere) / len(everywhere) for name in self.weights}


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Inside, without dropout and gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def play(trainer: GRPOTrainerLike, rows: Sequence[dict[str, Any]]) -> list[Episode]:
    """The episodes in which the trainer's model answers questions greedily; most end with their first message."""
    generate = generate_with_vllm if trainer.use_vllm else generate_with_transformers
    played = [Episode() for _ in rows]
    going = list(range(len(rows)))
    while going:
        ids = generate(trainer, [conversation(rows[at], played[at]) for at in going])
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        said = zip(going, map(full_message, texts), strict=True)
        seen = {at: advance(find_task(rows[at]["task"]), played[at], text, rows[at]) for at, text in said}
        going = [at for at in going if seen[at] is not None]
    return played


def generate_with_vllm(trainer: GRPOTrainerLike, prompts: list[Any]) -> list[list[int]]:
    """Greedy completions by vLLM, with the weights as they are now; each question is asked once."""
    vllm = trainer.vllm_generation
    vllm.sync_weights()
    sampling = vllm.temperature, trainer.num_generations_eval
    vllm.temperature, trainer.num_generations_eval = 0.0, 1
    try:
        return list(trainer.rollout_func(prompts, trainer)["completion_ids"])
    finally:
        vllm.temperature, trainer.num_generations_eval = sampling


def generate_with_transformers(trainer: GRPOTrainerLike, prompts: list[Any]) -> list[list[int]]:
    """Greedy completions by the model itself, as many at a time as a step trains on.

    Raises:
        UserError: where the chat template does not write one placeholder an image.
    """
    processor, device = trainer.processing_class, trainer.accelerator.device
    size = trainer.args.per_device_train_batch_size
    completions: list[list[int]] = []
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            texts, images = render(batch, trainer, tokenize=False), [images_of(prompt) for prompt in batch]
            check_image_counts(texts, list(map(len, images)), processor)
            inputs = processor(images=images, text=texts, padding=True, return_tensors="pt").to(device)
            with trainer.accelerator.autocast():
                ids = model.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=trainer.max_completion_length,
                    suppress_tokens=trainer.args.generation_kwargs["suppress_tokens"],
                )
            completions += ids[:, inputs["input_ids"].shape[1] :].tolist()
    return completions

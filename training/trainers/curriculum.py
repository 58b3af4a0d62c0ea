"""The order of the questions: at random, or the easiest first (Bengio et al. 2009, doi:10.1145/1553374.1553380).

A run that is resumed asks them in the order of one that was never stopped.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from datagen.task import DatasetSpec


def easiest_first(questions: Any, dataset: DatasetSpec, config: Any) -> Any:
    """The questions that a run will ask, ordered by the dataset's difficulty column, at random within a level.

    A run that ends before it has seen every question asks a random part of them, so that it still ends with the
    hardest. `config` is the trainer's GRPOConfig: its `shuffle_dataset` is turned off, and so the order goes on where
    a checkpoint is resumed.
    """
    config.shuffle_dataset = False
    groups = config.generation_batch_size // config.num_generations  # questions that are asked at a time
    batches = -(-config.max_steps * config.gradient_accumulation_steps // config.steps_per_generation)
    asked = -(-batches // config.num_iterations) * groups if config.max_steps > 0 else len(questions)
    chosen = questions.shuffle(seed=config.seed).select(range(min(asked, len(questions))))
    levels = chosen[dataset.difficulty]
    return chosen.select(sorted(range(len(chosen)), key=levels.__getitem__))


class ResumeDataOrder(TrainerCallback):  # type: ignore[misc]
    """Goes on with the order of the epoch in which a run was stopped.

    TRL 1.16's RepeatSampler draws the order of every epoch from one generator, which no checkpoint holds, and has no
    `set_epoch`: transformers would ask each later epoch's questions in the order of the first.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **kwargs: Any) -> None:
        """Draw what was drawn for the epochs that are complete."""
        batches = train_dataloader.batch_sampler
        while hasattr(batches, "batch_sampler"):  # accelerate's, around torch's, where several processes share them
            batches = batches.batch_sampler
        sampler = batches.sampler
        if sampler.shuffle:
            for _ in range(int(state.epoch or 0)):
                torch.randperm(sampler.num_samples, generator=sampler.generator)

"""The order of the questions: at random, or the easiest first (Bengio et al. 2009, doi:10.1145/1553374.1553380)."""

from __future__ import annotations

from typing import Any

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
    needed = -(-batches // config.num_iterations) * groups if config.max_steps > 0 else len(questions)
    chosen = questions.shuffle(seed=config.seed).select(range(min(needed, len(questions))))
    levels = chosen[dataset.difficulty]
    return chosen.select(sorted(range(len(chosen)), key=levels.__getitem__))

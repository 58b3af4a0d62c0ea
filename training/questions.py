"""The questions that a run is about, and the settings that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from training.config import RunConfig, Stage, settings_of
from training.recipes import load_recipe

if TYPE_CHECKING:
    from datagen.dataset.reader import BuiltDataset

TASKSET_LIMIT = 512  # tokens of an answer to a question of a taskset, where the recipe sets no limit


def open_questions(config: RunConfig) -> BuiltDataset:
    """The dataset of a run, with the code that the user names for it.

    Raises:
        UserError: where there is none, or it can't be trained on.
    """
    from datagen.dataset.reader import open_dataset
    from datagen.registry import add_file, find_dataset_or_task
    from datagen.taskset.questions import open_to_train

    if config.env is not None:
        for flag in ("data", "task_file", "cold_start", "traces", "push"):
            if getattr(config, flag):
                name = {"push": "push-to-hub"}.get(flag, flag.replace("_", "-"))
                raise UserError(f"--{name} is for the datasets of r1vlm: leave it out with --env")
        return open_to_train(config.env)
    if config.task_file is not None:
        add_file(config.task_file)
    return open_dataset(config.data or Path("data") / find_dataset_or_task(config.task).name)


def stage_settings(config: RunConfig, recipe: str, stage: Stage, built: BuiltDataset) -> dict[str, Any]:
    """The settings of a stage.

    On a taskset its own weights of rewards stand for the recipe's, and there is a limit of answers, which no trace
    gives.

    Raises:
        UserError: as `settings_of`.
    """
    from datagen.taskset.questions import TasksetDataset

    settings = settings_of(config, recipe, stage)
    if isinstance(built, TasksetDataset):
        weights, of_recipe = (one.get("reward_weights") for one in (settings, load_recipe(recipe)[stage]))
        given = weights if weights and weights != of_recipe else {}
        limit = settings.get("max_completion_length") or TASKSET_LIMIT
        settings |= {"reward_weights": {**built.taskset.weights, **given}, "max_completion_length": limit}
    return settings

"""Recipes: the files of `training/recipes/`, each the settings of both stages for a model, a task or a way to train.

A recipe may say which one it `extends`, setting by setting, and which `model` it is made for.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from datagen.common.errors import UserError, suggest
from datagen.task import DatasetSpec
from training.models import is_small, model_folder

FOLDER = files("training.recipes")
DEFAULT = "default"
SMALL = "small"


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Every recipe as its file has it, by name."""
    import yaml

    paths = [path for path in FOLDER.iterdir() if path.name.endswith(".yaml")]
    return {
        path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted(paths, key=lambda path: path.name)
    }


def load_recipe(name: str) -> dict[str, Any]:
    """`model` (where there is one), `cold_start` and `grpo` of a recipe, with what it extends.

    Raises:
        UserError: where there is none of that name.
    """
    if name not in recipes():
        raise UserError(f"there is no recipe {name!r}: {suggest(name, list(recipes()))}")
    own = recipes()[name]
    base = load_recipe(own["extends"]) if "extends" in own else {}
    stages = {stage: base.get(stage, {}) | own.get(stage, {}) for stage in ("cold_start", "grpo")}
    return {**base, **own, **stages}


def recipe_for(model: str, dataset: DatasetSpec) -> str:
    """The recipe that is made for a model, else `default`.

    Models that are built in or as small have `small`, or one of their own for a dataset, such as `small-zoom`.

    Raises:
        UserError: where the model is no folder here and can't be fetched.
    """
    hub_name = model.partition("@")[0]
    made_for = [name for name, own in recipes().items() if own.get("model") == hub_name]
    if made_for or not is_small(model_folder(model)):
        return made_for[0] if made_for else DEFAULT
    own = f"{SMALL}-{dataset.name}"
    return own if own in recipes() else SMALL

"""The configuration of a run: recipe, then a YAML file, then options; checked before anything heavy is loaded."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datagen.common.errors import UserError, suggest
from training.recipes import load_recipe

Stage = Literal["cold_start", "grpo"]
RUN_FILE = "run.json"  # in a run folder: the configuration, and where the run is
EXTRA_SETTINGS: dict[str, dict[str, Any]] = {  # fields that are not TRL's, or not as TRL has them
    "cold_start": {
        "traces": int,
        "freeze_vision": bool,
        "image_processor": dict[str, Any],  # changes to the model's own, saved with every checkpoint
    },
    "grpo": {
        "freeze_vision": bool,
        "image_processor": dict[str, Any],
        "curriculum": Literal["none", "difficulty"],  # the order of the questions: random, or the easiest first
        "drop_zero_variance": bool,  # see training/trainers/zero_variance.py
        "reward_weights": dict[str, float],  # by the reward's name; 1.0 for the others
        "lora": dict[str, Any],  # of PEFT's LoraConfig; all weights are trained without it
    },
}


RESERVED_SETTINGS = {  # settings that would break what a run folder promises
    "output_dir": "use --out",
    "seed": "use --seed",
    "data_seed": "use --seed",
    "save_strategy": "it saves every save_steps steps",
    "load_best_model_at_end": "use --eval-steps, which keeps the best checkpoint",
    "eval_strategy": "use --eval-steps",
    "remove_unused_columns": "the rewards need every column",
    "resume_from_checkpoint": "use --resume",
    "push_to_hub": "use --push-to-hub",
    "hub_model_id": "use --push-to-hub with --repo",
    "hub_token": "run  hf auth login  or set HF_TOKEN: a token in a file is a token lost",
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run; `settings` are the fields of TRL's configuration class of the stage.

    `hardware` is what does not: where the run is, and the settings that follow from that. A run may go on elsewhere.
    """

    stage: Stage
    model: str
    data: str
    tasks: list[str]
    out: str
    seed: int
    settings: dict[str, Any]
    dataset_fingerprint: str
    reward_hash: dict[str, str]
    hardware: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the run folder's `run.json`."""
        return asdict(self)


def resolve_settings(
    recipe: str, stage: Stage, file: Path | None, options: dict[str, Any], sets: list[str]
) -> dict[str, Any]:
    """The merged and checked settings of a stage: recipe (of `recipes/`) < YAML file < options < `--set`.

    Raises:
        UserError: for an unknown name (naming the nearest) or a value of the wrong type.
    """
    merged = dict(load_recipe(recipe)[stage])
    if file is not None:
        merged |= validate_settings(stage, _read_yaml(file))
    merged |= {name: value for name, value in options.items() if value is not None}
    return merged | validate_settings(stage, dict(_assignment(text) for text in sets))


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {file}: name a YAML file of settings with --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} must hold settings as `name: value` lines")
    return values


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--set {text!r} is not of the form name=value")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r} has a value that is not valid YAML") from error


def validate_settings(stage: Stage, values: dict[str, Any]) -> dict[str, Any]:
    """`values`, where each is a field of the stage's TRL configuration and of its type."""
    if not values:
        return values
    from huggingface_hub import get_token
    from pydantic import TypeAdapter, ValidationError

    types = typing.get_type_hints(config_class(stage)) | EXTRA_SETTINGS[stage]
    result = {}
    token = get_token()
    for name, value in values.items():
        if token and token in str(value):
            raise UserError(
                f"{name} holds your token, which would end in the run's files: leave it out, it is used anyway"
            )
        if name in RESERVED_SETTINGS:
            raise UserError(f"{name} is set by this command itself: {RESERVED_SETTINGS[name]}")
        if name not in types:
            raise UserError(f"there is no setting {name!r}: {suggest(str(name), sorted(types))}")
        try:
            result[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"]
            raise UserError(f"{name}={value!r} is not possible: {wanted[0].lower() + wanted[1:]}") from error
        if why := _why_impossible(name, result[name]):
            raise UserError(f"{name}={value!r} is not possible: {why}")
    return result


def _why_impossible(name: str, value: Any) -> str | None:
    """Why a value of the right type is none that a run can have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "input should be a finite number"
    if name in ("eval_steps", "save_steps") and value is not None and (value <= 0 or (value > 1 and value % 1)):
        return "input should be a number of steps, or a share of all of them below 1"
    if name == "lora" and not (isinstance(rank := value.get("r", 8), int) and rank > 0):
        return "its r should be a whole number above 0"
    return None


def read_run(out: Path) -> dict[str, Any]:
    """What `run.json` in a run folder says; empty where there is none.

    Raises:
        UserError: where it is damaged.
    """
    path = out / RUN_FILE
    if not path.is_file():
        return {}
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        noted = None
    if not isinstance(noted, dict) or not isinstance(noted.get("settings", {}), dict):
        raise UserError(f"{path} is damaged: name another folder with --out, and train anew")
    return noted


def config_class(stage: Stage) -> Any:
    """TRL's configuration class of a stage."""
    if stage == "grpo":
        from trl import GRPOConfig

        return GRPOConfig
    from trl import SFTConfig

    return SFTConfig


def make_trl_config(run: RunConfig) -> Any:
    """TRL's configuration object of a run.

    Raises:
        UserError: where TRL refuses the combination of settings; the sentence is TRL's.
    """
    import torch

    fixed = {
        "output_dir": run.out,
        "seed": run.seed,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    settings = {name: value for name, value in run.settings.items() if name not in EXTRA_SETTINGS[run.stage]}
    if run.stage == "grpo":
        settings["reward_weights"] = reward_weights(run)
    settings |= run.hardware.get("settings", {})
    with trl_errors_explained():
        return config_class(run.stage)(**{**fixed, **settings})


def reward_weights(run: RunConfig) -> list[float]:
    """The weight of each of the tasks' rewards, in the order in which the trainer is given them.

    Raises:
        UserError: for the weight of a reward that no task of the run has.
    """
    from datagen.registry import reward_names

    names, given = reward_names(run.tasks), run.settings.get("reward_weights", {})
    for name in given:
        if name not in names:
            raise UserError(f"{', '.join(run.tasks)} has no reward {name!r} to weigh: {suggest(name, names)}")
    return [given.get(name, 1.0) for name in names]


@contextmanager
def trl_errors_explained() -> Iterator[None]:
    """Turn what TRL and transformers say of impossible settings into a `UserError`. Nothing else may run inside."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error

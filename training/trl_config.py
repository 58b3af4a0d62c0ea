"""A stage's configuration as TRL has it, and what is checked of it before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError, suggest
from training.config import EXTRA_SETTINGS, Stage, StageConfig
from training.distributed import announced_waiting
from training.turns import turns_of

NEED_A_MODEL = ("galore", "apollo", "lomo", "adalomo")  # optimizers that nothing but their package can be checked of
TOOLS = (
    *("optim", "optim_args", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "report_to"),
    *("lr_scheduler_type", "lr_scheduler_kwargs"),
)


def make_trl_config(stage: StageConfig) -> Any:
    """TRL's configuration object of a stage.

    Raises:
        UserError: where TRL refuses the combination of settings; the sentence is TRL's.
    """
    import torch

    fixed = {
        "output_dir": stage.out,
        "seed": stage.seed,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 1,
        "report_to": "none",
        "project": "r1vlm",
        "run_name": Path(stage.out).name,  # a tracker goes on with the run of that name, where training is resumed
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    if stage.stage == "cold_start":
        fixed["max_length"] = None  # TRL's default of 1024 tokens would cut the end of a trace off
    settings = {name: value for name, value in stage.settings.items() if name not in EXTRA_SETTINGS[stage.stage]}
    if stage.stage == "grpo":
        settings["reward_weights"] = reward_weights(stage)
    settings |= stage.hardware.get("settings", {})
    with trl_errors_explained(), announced_waiting():
        config = config_class(stage.stage)(**{**fixed, **settings})
    if stage.stage == "grpo":
        check_saves(config)
        check_sampling(stage)
    return config


def check_sampling(stage: StageConfig) -> None:
    """Raise a `UserError` where questions can't be chosen as asked for, by their variance or from a pool."""
    dynamic, curriculum = stage.settings.get("dynamic_sampling"), stage.settings.get("curriculum")
    for name in ("dynamic_sampling", "drop_zero_variance"):
        if stage.settings.get(name) and stage.settings.get("multi_objective_aggregation") == "normalize_then_sum":
            raise UserError(
                f"{name} looks at the sum of the rewards, and with multi_objective_aggregation=normalize_then_sum a "
                f"group of equal sums teaches something, too: set {name}=false"
            )
    if dynamic and curriculum == "difficulty":
        raise UserError(
            "curriculum=difficulty orders the questions of a run, and dynamic_sampling does not know how many it will "
            "ask: leave one of them out, or use curriculum=pool"
        )
    if (dynamic or curriculum == "pool") and turns_of(stage.tasks) > 1:
        raise UserError(
            f"{', '.join(stage.tasks)}: questions of several turns are asked in TRL's order for now: set "
            "dynamic_sampling=false, and --curriculum none or difficulty"
        )


def check_saves(config: Any) -> None:
    """Raise a `UserError` where a checkpoint would fall between steps that share their sampled completions.

    TRL 1.16 does not save these: a run that goes on from there samples others, and takes other steps.
    """
    shared, steps = config.steps_per_generation * config.num_iterations, config.gradient_accumulation_steps
    saves = ("save_steps",) if config.save_strategy == "steps" else ()
    for name in (*saves, "eval_steps"):  # a validation saves, too
        given = getattr(config, name) or 0
        every = math.ceil(given * max(config.max_steps, 1) if given < 1 else given)  # of epochs it may be any number
        if every * steps % shared:
            raise UserError(
                f"{name}={given:g} falls between steps that train on the same completions, where no run can go on: "
                f"make it a multiple of {shared // math.gcd(shared, steps)}"
            )


def check_tools(stage: StageConfig) -> None:
    """Check that what a stage trains with can be made: optimizer, scheduler, adapter and trackers.

    Raises:
        UserError: where a package is missing, or an option is unknown.
    """
    import torch
    from transformers import Trainer, TrainingArguments, get_scheduler
    from transformers.integrations import get_reporting_integration_callbacks

    taken = {name: stage.settings[name] for name in TOOLS if name in stage.settings}
    with trl_errors_explained():
        args = TrainingArguments(output_dir=stage.out, use_cpu=True, **{"report_to": "none", **taken})
        with suppress(ValueError) if args.optim.startswith(NEED_A_MODEL) else nullcontext():
            Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1)
        get_scheduler(
            args.lr_scheduler_type, optimizer, 0, 1, scheduler_specific_kwargs=args.lr_scheduler_kwargs or None
        )
        for tracker in get_reporting_integration_callbacks(args.report_to):
            tracker()
        if "wandb" in args.report_to:
            check_wandb()
        if lora := stage.settings.get("lora"):
            from peft import LoraConfig

            LoraConfig(**lora)


def check_wandb() -> None:
    """Raise a `UserError` where wandb would take no run; on a terminal it asks for the key. Offline it wants none."""
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"wandb takes no run ({reason}): run  wandb login  or set WANDB_API_KEY, or WANDB_MODE=offline, or leave "
            "out --report-to"
        ) from error


def reward_weights(stage: StageConfig) -> list[float]:
    """The weight of each of the tasks' rewards, in the order in which the trainer is given them.

    Raises:
        UserError: for the weight of a reward that no task of the stage has.
    """
    from datagen.registry import reward_names

    names, weights = reward_names(stage.tasks), stage.settings.get("reward_weights", {})
    for name in weights:
        if name not in names:
            raise UserError(f"{', '.join(stage.tasks)} has no reward {name!r} to weigh: {suggest(name, names)}")
    return [weights.get(name, 1.0) for name in names]


@contextmanager
def trl_errors_explained() -> Iterator[None]:
    """Turn what TRL and transformers say of impossible settings into a `UserError`. Nothing else may run inside."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error


def precision(args: Any) -> str:
    """What a TRL configuration computes in: `float32`, `bfloat16` or `float16`."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def config_class(stage: Stage) -> Any:
    """TRL's configuration class of a stage."""
    if stage == "grpo":
        from trl import GRPOConfig

        return GRPOConfig
    from trl import SFTConfig

    return SFTConfig

"""The configuration of a run: as a user gives it (`RunConfig`), and of each stage as resolved (`StageConfig`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from datagen.common.config_file import dump_yaml, parse_yaml, read_config_file
from datagen.common.errors import UserError
from datagen.hub.publish import PublishOptions
from training.recipes import load_recipe
from training.trl_fields import trl_fields
from training.void_settings import GENERATION, RULES, Rule, Settings, find_void

Stage = Literal["cold_start", "grpo"]
VLLM = Literal["off", "colocate", "server"]
Curriculum = Literal["none", "difficulty", "pool"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EXTRA_SETTINGS: dict[str, dict[str, Any]] = {  # fields that are not TRL's, or not as TRL has them
    "cold_start": {
        "traces": int,
        "freeze_vision": bool,
        "image_processor": dict[str, Any],  # changes to the model's own, saved with every checkpoint
        "new_tokens": list[str],  # texts that become one token each, saved with every checkpoint
    },
    "grpo": {
        "freeze_vision": bool,
        "image_processor": dict[str, Any],
        "curriculum": Curriculum,  # the order of the questions: see training/trainers/curriculum.py
        "dynamic_sampling": bool,  # see training/trainers/dynamic_sampling.py
        "drop_zero_variance": bool,  # see training/trainers/zero_variance.py
        "shared_prefix": bool,  # see training/trainers/shared_prefix; on unless it is set to false
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
    "hub_strategy": "use --push-to-hub",
    "hub_always_push": "use --push-to-hub",
    "hub_revision": "use --push-to-hub with --revision",
    "logging_strategy": "it logs every logging_steps steps",
    "use_cpu": "use --hardware cpu",
    "model_init_kwargs": "use --model, with NAME@REVISION for a revision, and bf16 for the precision",
    "max_length": "no trace is cut off",
    "trust_remote_code": "the code of a checkpoint is never run",
    "chat_template_path": "save the model's processor with that template",
    **dict.fromkeys(("do_train", "do_predict"), "it trains"),
    **dict.fromkeys(
        (
            *("do_eval", "eval_on_start", "eval_delay", "per_device_eval_batch_size", "num_generations_eval"),
            *("eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "prediction_loss_only"),
            *("bf16_full_eval", "fp16_full_eval", "batch_eval_metrics", "include_for_metrics", "label_names"),
            *("metric_for_best_model", "greater_is_better"),
        ),
        "use --eval-steps, which scores validation by the rewards",
    ),
    "hub_token": "run  hf auth login  or set HF_TOKEN: a token in a file is a token lost",
}


FORMER_SETTINGS = {  # of older versions of TRL and transformers, and of TRL's own scripts
    "max_prompt_length": "prompts are never cut",
    "warmup_ratio": "warmup_steps takes a share of all steps, below 1",
    "evaluation_strategy": "use --eval-steps",
    "group_by_length": "use train_sampling_strategy=group_by_length",
    "no_cuda": "use --hardware cpu",
    **dict.fromkeys(("model_name_or_path", "model_name", "model_revision"), "use --model"),
    **dict.fromkeys(("dataset_name", "dataset"), "use --data"),
    **dict.fromkeys(("torch_dtype", "dtype"), "use bf16=true or bf16=false"),
    **dict.fromkeys(("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"), "use lora={r: 16}"),
}
GENERATION_KWARGS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "cache_implementation")},
    **dict.fromkeys(("max_new_tokens", "max_tokens", "max_length"), "max_completion_length"),
    **dict.fromkeys(("n", "num_return_sequences"), "num_generations"),
    "do_sample": "temperature",
}


NOT_FOR_VLLM = ("use_dora", "trainable_token_indices", "ensure_weight_tying")  # of an adapter's settings


class RunConfig(BaseModel):
    """The configuration of a run. Each field is the flag of that name; `push` stands for `--push-to-hub`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """A task, or a dataset for all of its tasks."""
    model: str | None = None
    """`small`, `small-ciphers`, a folder or a model on the Hub; None for the recipe's, or the hardware's."""
    task_file: Path | None = None
    """A Python file with the dataset, where it is neither built in nor of an installed package. It is run."""
    env: str | None = None
    """An installed package with a taskset of verifiers 0.4, whose name is the task. It is run."""
    data: str | None = None
    """A dataset folder, or USER/NAME on the Hub; None for `data/` and the name of the dataset."""
    out: Path | None = None
    """The run folder; None for `runs/` and the name of the task."""
    resume: bool = False
    """Go on with the run in `out`."""
    cold_start: bool = False
    """Train on traces only, without GRPO."""
    seed: Annotated[int, Field(ge=0)] = 0
    report: bool = True
    """Score the checkpoints before and after GRPO, and write a report."""
    hardware: str = "auto"
    """A hardware preset, or `auto` for the one that uses most of what is there."""
    nodes: Annotated[int, Field(ge=2)] | None = None
    """Machines of a preset of several; one of them generates."""
    gpu_memory: Annotated[float, Field(ge=1, le=10_000)] | None = None
    """Memory of a GPU in GiB; None for what is there."""
    vllm: VLLM | None = None
    """Where vLLM generates; None for what the preset says."""
    preflight: bool = True
    """Check before the first step that the trainer and vLLM agree."""
    watchdog: Positive = 30.0
    """Stop after so many minutes without a step."""
    recipe: str | None = None
    """A file of `training/recipes`; None for the model's."""
    steps: Count | None = None
    """Optimisation steps. This and what follows overrides the recipe; None for the recipe's value."""
    learning_rate: Positive | None = None
    num_generations: Annotated[int, Field(ge=2)] | None = None
    """Completions of a question: the size of GRPO's groups."""
    curriculum: Curriculum | None = None
    """The order of the questions: at random, the easiest first, or by a pool of their solve rates."""
    traces: Count | None = None
    """Solutions that the cold start trains on."""
    eval_steps: Count | None = None
    """Score validation so often, and keep the best checkpoint."""
    report_to: str | None = None
    """A tracker that transformers knows, such as tensorboard or wandb."""
    config: Path | None = None
    """A YAML file with fields of TRL's GRPOConfig (or SFTConfig)."""
    settings: dict[str, Any] = {}
    """Fields of TRL's GRPOConfig (or SFTConfig), which override all others: what `--set` says."""
    push: PublishOptions | None = None
    """Where to publish the last checkpoint; None: nowhere."""

    def as_words(self) -> list[str]:
        """The arguments of `r1vlm-train` that stand for this configuration."""
        words = [self.task]
        for name, info in type(self).model_fields.items():
            value, flag = getattr(self, name), name.replace("_", "-")
            if name == "task" or value == info.default:
                continue
            if name == "settings":
                words += [word for key, setting in value.items() for word in ("--set", f"{key}={_as_yaml(setting)}")]
            elif name == "push":
                words += ["--push-to-hub", *_publish_words(value)]
            elif isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return words


def _publish_words(push: PublishOptions) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in asdict(push).items() if value not in (None, False)}
    return [word for name, value in given.items() for word in (f"--{name}", *([] if value is True else [value]))]


def _as_yaml(value: Any) -> str:
    """A value on one line of YAML, as an item of a list."""
    return dump_yaml([value]).removeprefix("[").removesuffix("]\n")


@dataclass(frozen=True)
class StageConfig:
    """Everything that determines a stage; `settings` are the fields of TRL's configuration class of the stage.

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


NOTHING: Mapping[str, Any] = MappingProxyType({})


def resolve_settings(
    recipe: str,
    stage: Stage,
    file: Path | None = None,
    options: Mapping[str, Any] = NOTHING,
    settings: Mapping[str, Any] = NOTHING,
) -> dict[str, Any]:
    """The merged and checked settings of a stage: recipe (of `recipes/`) < YAML file < options < `settings`.

    Options that are None are left out; they have been checked before.

    Raises:
        UserError: for an unknown name (naming the nearest), a value of the wrong type, or one that another makes void.
    """
    given = validate_settings(stage, read_config_file(file)) if file is not None else {}
    given |= {name: value for name, value in options.items() if value is not None}
    given |= validate_settings(stage, settings)
    merged = {**load_recipe(recipe)[stage], **given}
    check_void(RULES[stage], stage, given, load_recipe(recipe)[stage], merged)
    if "num_train_epochs" in given:  # which counts where there are no max_steps alone
        if given.get("max_steps", -1) > 0:
            raise UserError("max_steps (--steps) makes num_train_epochs void: leave one of them out")
        merged["max_steps"] = -1
    return merged


def check_void(rules: list[Rule], stage: Stage, given: Settings, without: Settings, merged: Settings) -> None:
    """Raise a `UserError` for a setting in `given` that another one makes void.

    `merged` are all of the stage that are set, and `without` those that are set where none is given.
    """
    if not given:
        return
    usual = dict.fromkeys(EXTRA_SETTINGS[stage]) | {name: field.default for name, field in trl_fields(stage).items()}
    if reason := find_void(rules, given, {**usual, **without}, {**usual, **merged}):
        raise UserError(reason)


def check_generation(stage: StageConfig) -> None:
    """Raise a `UserError` for a setting of sampling that the hardware of a stage makes void."""
    hardware = stage.hardware.get("settings", {})
    check_void(GENERATION, stage.stage, stage.settings, hardware, {**stage.settings, **hardware})


def check_adapter(stage: StageConfig, adapter: Mapping[str, Any]) -> None:
    """Check the settings of LoRA; `adapter` are those of the model where it is an adapter already, else empty.

    Raises:
        UserError: for an adapter on an adapter, and for one whose changes vLLM can't be sent.
    """
    lora = stage.settings.get("lora") or {}
    if lora and adapter:
        raise UserError(f"{stage.model} is a LoRA adapter already, which training goes on with: set lora={{}}")
    if stage.hardware.get("settings", {}).get("use_vllm"):
        for name in NOT_FOR_VLLM:
            if (lora or adapter).get(name):
                raise UserError(f"vLLM can't be sent what an adapter with {name} changes: generate with --vllm off")


def settings_of(config: RunConfig, recipe: str, stage: Stage) -> dict[str, Any]:
    """The settings of a stage of a run.

    What the user gives is for the stage that the run is for; a cold start before GRPO has the recipe's, and `traces`.

    Raises:
        UserError: as `resolve_settings`.
    """
    traces = {"traces": config.traces} if stage == "cold_start" else {}
    if stage == "cold_start" and not config.cold_start:
        return resolve_settings(recipe, stage, None, traces)
    options = {"max_steps": config.steps, "learning_rate": config.learning_rate, "report_to": config.report_to}
    if stage == "grpo":
        options |= {name: getattr(config, name) for name in ("num_generations", "curriculum", "eval_steps")}
    return resolve_settings(recipe, stage, config.config, options | traces, config.settings)


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """The settings in texts of the form `name=value`, with values in YAML; the later of two for one name counts.

    Raises:
        UserError: for a text of another form.
    """
    return dict(map(_parse_assignment, texts))


def _parse_assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--set {text!r} is not of the form name=value")
    try:
        return name, parse_yaml(value)
    except ValueError as error:
        raise UserError(f"--set {text!r} has a value that is not valid YAML") from error


def validate_settings(stage: Stage, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, each converted to the type of the field of the stage's TRL configuration that it is for.

    Raises:
        UserError: for an unknown name (naming the nearest), a name in `RESERVED_SETTINGS`, and a wrong value.
    """
    if not values:
        return {}
    from huggingface_hub import get_token
    from pydantic import TypeAdapter, ValidationError

    types = {name: field.type for name, field in trl_fields(stage).items()} | EXTRA_SETTINGS[stage]
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
            raise UserError(f"there is no setting {name!r}: {_instead_of(str(name), list(types))}")
        try:
            result[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"]
            raise UserError(f"{name}={value!r} is not possible: {wanted[0].lower() + wanted[1:]}") from error
        if reason := _impossible(name, result[name]):
            raise UserError(f"{name}={value!r} is not possible: {reason}")
    return result


def _instead_of(name: str, known: list[str]) -> str:
    """What to use in place of a setting that there is not: a flag, or the settings that are called alike."""
    if reason := FORMER_SETTINGS.get(name):
        return reason
    if name.replace("-", "_") in RunConfig.model_fields:
        return f"use --{name.replace('_', '-')}"
    close = get_close_matches(name, known, n=1, cutoff=0.85) or get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else "TRL's GRPOConfig and SFTConfig have none"


def _is_interval(value: float | None) -> bool:
    return value is None or 0 < value <= 1 or (value > 1 and value % 1 == 0)


POSSIBLE: dict[str, tuple[Callable[[Any], bool], str]] = {  # what a value may be, and what is said of others
    **dict.fromkeys(
        ("eval_steps", "save_steps"),
        (_is_interval, "input should be a number of steps, or a share of all of them below 1"),
    ),
    **dict.fromkeys(("temperature", "repetition_penalty"), (lambda value: value > 0, "input should be above 0")),
    "top_p": (lambda value: 0 < value <= 1, "input should be above 0, and at most 1"),
    "min_p": (lambda value: value is None or 0 <= value <= 1, "input should be from 0 to 1"),
    "top_k": (lambda value: value >= 0, "input should be a number of tokens, or 0 for all"),
    "use_liger_kernel": (
        lambda value: not value or find_spec("liger_kernel") is not None,
        "install it with  pip install liger-kernel",
    ),
}


def _impossible(name: str, value: Any) -> str | None:
    """The reason why no run can have a value, though it is of the right type; None where one can."""
    if isinstance(value, float) and not math.isfinite(value):
        return "input should be a finite number"
    if name in POSSIBLE and not POSSIBLE[name][0](value):
        return POSSIBLE[name][1]
    if name == "generation_kwargs":  # which would be sampled with, and not be reckoned with in the loss
        for key in value or {}:
            if instead := GENERATION_KWARGS.get(key):
                return f"set {instead} in place of its {key}"
    if name == "lora" and not (isinstance(rank := value.get("r", 8), int) and rank > 0):
        return "its r should be a whole number above 0"
    return None

"""The configuration of an evaluation, and the plan made from it: checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from datagen.common.config_file import is_config_file, read_config_file, validated
from datagen.common.errors import UserError, require_extra, writable_folder
from datagen.common.files import CURVE, METRICS, RECORD
from datagen.dataset.reader import BuiltDataset, open_dataset, tasks_of
from datagen.hub.cards import model_repository
from datagen.hub.fetch import parse_repo_id
from datagen.hub.publish import PublishOptions, PublishTarget, RepoIdentity, published_files, resolve_target
from datagen.hub.record import CARD_KEYS
from datagen.registry import add_file
from datagen.sources.split import Split
from datagen.taskset.questions import PREFIX, Taskset, TasksetDataset, open_taskset
from evaluation.backends.base import BackendName, Sampling, check_backend
from evaluation.metrics.external_results import Row, external_result, read_external_result
from evaluation.model_source import ModelSource, open_model, record_mismatches, served_model

Count = Annotated[int, Field(ge=1)]
OURS_ALONE = {"data", "task", "task_file", "split", "controls", "curve", "log_samples", "push"}  # without --env


class EvalConfig(BaseModel):
    """What to evaluate. Each field is the flag of `r1vlm-eval` of that name, and `push` stands for `--push-card`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    """A checkpoint folder, USER/NAME on the Hub, or a .jsonl file of completions; with `curve` a run folder."""
    task: str | None = None
    """A task, or a dataset for all of its tasks; None for all tasks of `data`."""
    data: str | None = None
    """A dataset folder, or USER/NAME on the Hub; None for the dataset in the checkpoint's record."""
    task_file: Path | None = None
    """A Python file with the dataset, where it is neither built in nor of an installed package. It is run."""
    env: str | None = None
    """An installed package with a taskset of verifiers 0.4: its questions are asked, by its rewards. It is run."""
    split: Split = "test"
    baseline: str | None = None
    """Another checkpoint or file of completions: it is scored too, as `before`, and compared."""
    out: Path = Path("runs/eval")
    """The folder to write to."""
    report: bool = False
    """Write `report.html`."""
    log_samples: bool = False
    """Write each answer as lm-evaluation-harness logs it."""
    beside: tuple[Path, ...] = ()
    """Result files to show in the table and the report."""
    limit: Count | None = None
    """Ask only the first questions, so many."""
    curve: bool = False
    """Score all checkpoints of the run folder on `validation`, and evaluate the best one."""
    controls: bool = False
    """Ask again without the right image."""
    samples: Count = 1
    """Answers to each question."""
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    """Of the sampling; None for 0 (greedy), or 1 with several samples."""
    engine: BackendName = "auto"
    endpoint: str | None = None
    """The address of an OpenAI-compatible server that has `checkpoint`, such as http://localhost:8000/v1."""
    batch_size: Count | None = None
    """Questions at a time; None for the engine's own number."""
    max_new_tokens: Count = 512
    metrics: Path | None = None
    """The `metrics.jsonl` whose curves the report shows; None for that of the checkpoint's run."""
    push: PublishOptions | None = None
    """Where to publish the model's card with the results; None: nowhere."""

    @model_validator(mode="after")
    def _check_env(self) -> Self:
        if self.env is not None:
            for name in sorted(OURS_ALONE & self.model_fields_set):
                flag = "push-card" if name == "push" else name.replace("_", "-")
                raise UserError(f"--{flag} is for the datasets of r1vlm: leave it out with --env")
        return self


def make_config(values: Mapping[str, Any]) -> EvalConfig:
    """The configuration of some fields; where `checkpoint` names a YAML file, its fields are the defaults.

    Raises:
        UserError: for an unknown key or a wrong value.
    """
    name = str(values.get("checkpoint"))
    if not is_config_file(name):
        return validated(EvalConfig, values, "the command line")
    given = {key: value for key, value in values.items() if key != "checkpoint"}
    return validated(EvalConfig, read_config_file(Path(name)) | given, name)


@dataclass(frozen=True)
class Side:
    """One model, and the files its evaluation leaves."""

    model: ModelSource
    result: Path
    completions: Path

    def samples(self, task: str) -> Path:
        """The sample log of a task, beside the completions."""
        return self.completions.with_name(self.completions.name.replace("completions", f"samples_{task}"))


@dataclass(frozen=True)
class Publication:
    """Where the model's card is published, what tells that the checkpoint is there, and whether its reward curve is."""

    to: PublishTarget
    mark: RepoIdentity
    curve: bool


@dataclass(frozen=True)
class EvalPlan:
    """What is to be done, with every file opened and checked.

    `warnings` are sentences about records that do not fit the dataset.
    """

    model: ModelSource
    baseline: ModelSource | None
    dataset: BuiltDataset
    task: str
    tasks: list[str]
    split: Split
    limit: int | None
    backend: BackendName
    batch_size: int | None
    sampling: Sampling
    controls: bool
    out: Path
    log_samples: bool
    report: bool
    beside: list[Row]
    metrics: Path | None
    warnings: list[str]
    push: Publication | None

    @property
    def taskset(self) -> Taskset | None:
        """Whose questions are asked, where they are not of a dataset of ours."""
        return self.dataset.taskset if isinstance(self.dataset, TasksetDataset) else None

    @property
    def sides(self) -> dict[str, Side]:
        """What is scored, by its name: `after` alone, or `before` (the baseline) and `after`."""
        if self.baseline is None:
            return {"after": Side(self.model, self.out / "results.json", self.out / "completions.jsonl")}
        return {
            name: Side(model, self.out / f"{name}.json", self.out / f"{name}.completions.jsonl")
            for name, model in (("before", self.baseline), ("after", self.model))
        }


def make_plan(config: EvalConfig) -> EvalPlan:
    """The checked plan of an evaluation; its folder is made.

    Raises:
        UserError: for every mistake that can be found without loading a model.
    """
    if config.task_file is not None:
        add_file(config.task_file)
    if config.endpoint is not None:
        model = served_model(config.checkpoint, config.endpoint)
    else:
        model = open_model(config.checkpoint)
    baseline = open_model(config.baseline) if config.baseline else None
    models = [one for one in (model, baseline) if one]
    dataset = _dataset(config, models)
    task = config.task or dataset.spec.name
    tasks = tasks_of(dataset, task)
    _check_backend(config, models)
    if config.controls and not model.is_model:
        raise UserError("--controls asks the model, and these are completions: name a checkpoint")
    plan = EvalPlan(
        model=model,
        baseline=baseline,
        dataset=dataset,
        task=task,
        tasks=tasks,
        split=config.split,
        limit=config.limit,
        backend=config.engine,
        batch_size=config.batch_size,
        sampling=_sampling(config),
        controls=config.controls,
        out=writable_folder(config.out),
        log_samples=config.log_samples,
        report=config.report,
        beside=_rows_beside(model, config.beside),
        metrics=_metrics_file(model, config.metrics),
        warnings=[text for one in models for text in record_mismatches(one, dataset, tasks)],
        push=_publication(config, config.push, model, tasks) if config.push is not None else None,
    )
    _check_overwriting(plan)
    _make_folder(plan.out)
    return plan


def _check_backend(config: EvalConfig, models: Sequence[ModelSource]) -> None:
    """Check that what generates the answers is installed, and can load these models."""
    local = any(one.is_model and one.endpoint is None for one in models)
    require_extra("eval", "scipy", *(("torch", "torchvision", "transformers") if local else ()))
    check_backend(config.engine, config.endpoint)
    if any(one.base for one in models):
        require_extra("train", "peft")
        if config.engine == "vllm":
            raise UserError("LoRA adapters are answered by transformers: leave out --engine vllm, or merge the adapter")


def _sampling(config: EvalConfig) -> Sampling:
    if config.samples > 1 and config.temperature == 0:
        raise UserError("several samples at temperature 0 are all the same: raise --temperature")
    temperature = config.temperature if config.temperature is not None else float(config.samples > 1)
    return Sampling(config.max_new_tokens, temperature, config.samples)


def _publication(config: EvalConfig, options: PublishOptions, model: ModelSource, tasks: Sequence[str]) -> Publication:
    """The repository that was named, that of the checkpoint, or the one that r1vlm-train would publish it in.

    Raises:
        UserError: where it doesn't hold this very checkpoint, or the card would speak of a part of the questions, or
            of answers that were sampled.
    """
    record = model.record
    if not record.keys() >= CARD_KEYS:
        raise UserError(f"{model.label} is no checkpoint that r1vlm-train has written: leave out --push-card")
    if config.limit is not None or config.split != "test" or not {*record["tasks"]} <= {*tasks}:
        raise UserError("a card speaks of all test questions: leave out --limit, --task and --split with --push-card")
    if _sampling(config).temperature:
        raise UserError("a card speaks of greedy answers: leave out --samples and --temperature with --push-card")
    if options.repo is None and (named := parse_repo_id(model.name)):
        options = replace(options, repo=named[0])
    to = resolve_target(options, "model", model_repository(record["tasks"], record.get("base_model", "model")))
    mark = RepoIdentity(RECORD, "checkpoint", record["checkpoint"])
    return Publication(to, mark, CURVE in published_files(to, mark))


def _make_folder(out: Path) -> None:
    """Make the folder now: where that fails, nothing has been generated yet."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't write to {out} ({error.strerror}): name another folder with --out") from error


def _check_overwriting(plan: EvalPlan) -> None:
    written = {side.completions for side in plan.sides.values()}
    for side in plan.sides.values():
        if side.model.path in written:
            raise UserError(f"{side.model.path} would be overwritten: name another folder with --out")


def _dataset(config: EvalConfig, models: Sequence[ModelSource]) -> BuiltDataset:
    if config.env is None:
        return open_dataset(config.data) if config.data else _recorded_dataset(models)
    dataset = open_taskset(config.env, config.limit)
    if all(one.record.get("dataset_fingerprint") != dataset.fingerprint for one in models):
        return dataset
    # Of a model that was trained on them, on the others alone: the first of these, not of all.
    return replace(open_taskset(config.env), divided=True)


def _recorded_dataset(models: Sequence[ModelSource]) -> BuiltDataset:
    """The dataset that the checkpoint's record names; the baseline's, where the checkpoint has none."""
    for model in models:
        if name := model.record.get("dataset"):
            if name.startswith(PREFIX):
                env = name.removeprefix(PREFIX)
                raise UserError(
                    f"{model.label} was trained on the taskset {env}, whose code is run: name it with --env {env}"
                )
            if not parse_repo_id(name) and not Path(name).is_dir():
                raise UserError(f"the dataset of {model.path}, {name}, is gone: name one with --data")
            return open_dataset(name)
    raise UserError(f"{models[0].name} does not say which dataset it belongs to: name its folder with --data")


def _rows_beside(model: ModelSource, files: Sequence[Path]) -> list[Row]:
    """The results in the model's record, then those in the files."""
    source = str(model.path / RECORD)
    recorded = [external_result(row, "another run", source) for row in model.record.get("beside", [])]
    return recorded + [read_external_result(path) for path in files]


def _metrics_file(model: ModelSource, given: Path | None) -> Path | None:
    """The metrics that were named, or those of the checkpoint's run where they are still there."""
    if given is not None:
        if not given.is_file():
            raise UserError(f"there is no metrics file {given}: name a run's metrics.jsonl with --metrics")
        return given
    path = model.run / METRICS if model.run else None
    return path if path is not None and path.is_file() else None

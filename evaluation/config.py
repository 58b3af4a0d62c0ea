"""What a command line asks for, checked before anything heavy is imported."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import UserError, require_extra, writable_folder
from datagen.common.files import CURVE, METRICS, RECORD
from datagen.dataset.reader import BuiltDataset, check_split, open_dataset, tasks_of
from datagen.hub.cards import model_repository
from datagen.hub.fetch import parse_repo_id
from datagen.hub.publish import PublishTarget, RepoIdentity, published_files, refuse_unused, resolve_target
from evaluation.backends.base import Sampling, check_backend
from evaluation.metrics.external_results import Row, external_result, read_external_result
from evaluation.model_source import ModelSource, open_model, record_mismatches, served_model

# What a card is made from: the record of a checkpoint that r1vlm-train has written has all of it.
ON_CARD = {"checkpoint", "stage", "tasks", "step", "shown", "seed", "settings", "versions", "reward_hash"}


@dataclass(frozen=True)
class Side:
    """One subject and the files its evaluation leaves."""

    subject: ModelSource
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
    """Everything that is to be done. `warnings` are sentences about records that do not fit the dataset."""

    subject: ModelSource
    baseline: ModelSource | None
    dataset: BuiltDataset
    task: str
    tasks: list[str]
    split: str
    limit: int | None
    engine: str
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
    def sides(self) -> dict[str, Side]:
        """What is scored, by its name: `after` alone, or `before` (the baseline) and `after`."""
        if self.baseline is None:
            return {"after": Side(self.subject, self.out / "results.json", self.out / "completions.jsonl")}
        return {
            name: Side(subject, self.out / f"{name}.json", self.out / f"{name}.completions.jsonl")
            for name, subject in (("before", self.baseline), ("after", self.subject))
        }


def make_plan(arguments: Namespace) -> EvalPlan:
    """The checked plan of a parsed command line.

    Raises:
        UserError: for every mistake that can be found without loading a model.
    """
    if arguments.endpoint is not None:
        subject = served_model(arguments.checkpoint, arguments.endpoint)
    else:
        subject = open_model(arguments.checkpoint)
    baseline = open_model(arguments.baseline) if arguments.baseline else None
    subjects = [one for one in (subject, baseline) if one]
    dataset = open_dataset(arguments.data) if arguments.data else _recorded_dataset(subjects)
    task = arguments.task or dataset.spec.name
    tasks = tasks_of(dataset, task)
    local = any(one.is_model and one.endpoint is None for one in subjects)
    require_extra("eval", "scipy", *(("torch", "torchvision", "transformers") if local else ()))
    check_backend(arguments.engine, subject.endpoint)
    if not arguments.push_card:
        refuse_unused(arguments, "--push-card")
    if any(one.base for one in subjects):
        require_extra("train", "peft")
        if arguments.engine == "vllm":
            raise UserError("LoRA adapters are answered by transformers: leave out --engine vllm, or merge the adapter")
    if arguments.controls and not subject.is_model:
        raise UserError("--controls asks the model, and these are completions: name a checkpoint")
    if arguments.samples > 1 and arguments.temperature == 0:
        raise UserError("several samples at temperature 0 are all the same: raise --temperature")
    temperature = arguments.temperature if arguments.temperature is not None else float(arguments.samples > 1)
    plan = EvalPlan(
        subject=subject,
        baseline=baseline,
        dataset=dataset,
        task=task,
        tasks=tasks,
        split=check_split(arguments.split),
        limit=arguments.limit,
        engine=arguments.engine,
        batch_size=arguments.batch_size,
        sampling=Sampling(arguments.max_new_tokens, temperature, arguments.samples),
        controls=arguments.controls,
        out=writable_folder(arguments.out),
        log_samples=arguments.log_samples,
        report=arguments.report,
        beside=_beside(subject, arguments.beside),
        metrics=_metrics(subject, arguments.metrics),
        warnings=[text for one in subjects for text in record_mismatches(one, dataset, tasks)],
        push=_where_to_push(subject, tasks, arguments) if arguments.push_card else None,
    )
    _check_overwriting(plan)
    _make_folder(plan.out)
    return plan


def _where_to_push(subject: ModelSource, tasks: Sequence[str], arguments: Namespace) -> Publication:
    """The repository that was named, that of the checkpoint, or the one that r1vlm-train would publish it in.

    Raises:
        UserError: where it doesn't hold this very checkpoint, or the card would speak of a part of the questions.
    """
    record = subject.record
    if not record.keys() >= ON_CARD:
        raise UserError(f"{subject.label} is no checkpoint that r1vlm-train has written: leave out --push-card")
    if arguments.limit is not None or arguments.split != "test" or not {*record["tasks"]} <= {*tasks}:
        raise UserError("a card speaks of all test questions: leave out --limit, --task and --split with --push-card")
    if arguments.repo is None and (named := parse_repo_id(subject.name)):
        arguments.repo, _ = named
    to = resolve_target(arguments, "model", model_repository(record["tasks"], record.get("base_model", "model")))
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
        if side.subject.path in written:
            raise UserError(f"{side.subject.path} would be overwritten: name another folder with --out")


def _recorded_dataset(subjects: Sequence[ModelSource]) -> BuiltDataset:
    """The dataset that the checkpoint's record names; the baseline's, where the checkpoint has none."""
    for subject in subjects:
        if name := subject.record.get("dataset"):
            if not parse_repo_id(name) and not Path(name).is_dir():
                raise UserError(f"the dataset of {subject.path}, {name}, is gone: name one with --data")
            return open_dataset(name)
    raise UserError(f"{subjects[0].name} does not say which dataset it belongs to: name its folder with --data")


def _beside(subject: ModelSource, files: Sequence[Path]) -> list[Row]:
    where = str(subject.path / RECORD)
    recorded = [external_result(row, "another run", where) for row in subject.record.get("beside", [])]
    return recorded + [read_external_result(path) for path in files]


def _metrics(subject: ModelSource, given: Path | None) -> Path | None:
    """The metrics that were named, or those of the checkpoint's run where they are still there."""
    if given is not None:
        if not given.is_file():
            raise UserError(f"there is no metrics file {given}: name a run's metrics.jsonl with --metrics")
        return given
    run = subject.record.get("run")
    path = Path(run) / METRICS if run else None
    return path if path is not None and path.is_file() else None

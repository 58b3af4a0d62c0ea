"""What every dataset keeps, looked at on its first images: each thing that is not so is a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pyarrow as pa

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reward_audit import SECONDS, audit
from datagen.dataset.shards import make_questions, raw_row
from datagen.environment import trace_of
from datagen.registry import CODE, DATASETS, registered
from datagen.registry.code import check_spec, explain
from datagen.schema import arrow_schemas
from datagen.sources.split import SPLITS, Split
from datagen.task import DatasetSpec, Task, reward_hash, score

IMAGES = 30  # of each split and seed
ATTACKED = 12  # questions of each task
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """A dataset, the first images of each split under two seeds, and the questions about those of the first seed."""

    spec: DatasetSpec
    images: Mapping[tuple[Split, int], Rows]
    questions: Rows

    def about(self, task: Task) -> Rows:
        """The questions of a task."""
        return [question for question in self.questions if question["task"] == task.name]


def check_dataset(spec: DatasetSpec) -> list[str]:
    """What is wrong with a dataset, a sentence each; empty where it is as it should be.

    It need not be installed. Whatever its code raises is a finding.
    """
    path = CODE[spec.name].path if spec.name in CODE else ""
    try:
        check_spec(spec, "it")
        with registered(spec):
            sample = draw_sample(spec)
            return [finding for check in CHECKS for finding in _findings(check, sample, path)]
    except UserError as error:
        return [str(error)]
    except Exception as error:
        return [f"an image can't be drawn or asked about: {explain(error, path)}"]


def _findings(check: Callable[[Sample], Iterator[str]], sample: Sample, path: str) -> list[str]:
    try:
        return list(check(sample))
    except Exception as error:  # of somebody's code
        return [f"{check.__name__.replace('_', ' ')}: {explain(error, path)}"]


def draw_sample(spec: DatasetSpec) -> Sample:
    """Draw the images and ask the questions; raises what the dataset's code raises."""
    images = {(split, seed): draw_rows(spec, split, seed) for split in SPLITS for seed in (1, 2)}
    return Sample(spec, images, make_questions(spec, [row for split in SPLITS for row in images[split, 1]]))


def draw_rows(spec: DatasetSpec, split: Split, seed: int) -> Rows:
    """The first rows of the table `raw` of a split.

    Raises:
        UserError: where the dataset is one of images of your own, which are not drawn.
    """
    config = DatasetConfig(dataset=spec.name, size=1000, seed=seed)
    return [raw_row(config, split, index) for index in range(IMAGES)]


def names(sample: Sample) -> Iterator[str]:
    """No other dataset has one of its names."""
    own = {sample.spec.name, *(task.name for task in sample.spec.tasks)}
    for other in DATASETS.values():
        for name in sorted(own & {other.name, *(task.name for task in other.tasks)}):
            if other is not sample.spec:
                yield f"{name!r} is a name of the dataset {other.name!r} already: take another"


def drawing(sample: Sample) -> Iterator[str]:
    """The same stream draws the same, and another one something else."""
    if draw_rows(sample.spec, "test", 1) != sample.images["test", 1]:
        yield "draw gives something else the second time: take all that is random from the stream that it is given"
    counts = Counter(row["image"]["bytes"] for rows in sample.images.values() for row in rows)
    if alike := sum(counts.values()) - len(counts):
        yield f"{alike} of {sum(counts.values())} images are like another one: draw from more possibilities"


def columns(sample: Sample) -> Iterator[str]:
    """The columns are those that are declared, of their types."""
    spec, declared = sample.spec, {"id", "image", *sample.spec.raw_columns}
    for name in {*spec.r1_columns, *spec.disjoint} - set(spec.raw_columns):
        yield f"the column {name!r} is named, and is not in raw_columns: add it there"
    if spec.difficulty not in spec.r1_columns:
        yield f"the difficulty {spec.difficulty!r} is not in r1_columns: add it there"
    for name in spec.disjoint:
        if name in spec.raw_columns and spec.raw_columns[name].kind not in ("string", ["string"]):
            yield f"the column {name!r} is to be disjoint and holds no text: make it a string, or a list of strings"
    rows = [row for drawn in sample.images.values() for row in drawn]
    if odd := sorted(set().union(*(declared ^ set(row) for row in rows))):
        yield f"draw and raw_columns do not have the same columns: {', '.join(odd)}"
    elif pa.Table.from_pylist(rows, arrow_schemas(spec)["raw"]).to_pylist() != rows:
        yield "what draw gives is something else after it was written: let it have the types of raw_columns"


def splits(sample: Sample) -> Iterator[str]:
    """What must be disjoint is."""
    for column in sample.spec.disjoint:
        values: dict[str, set[str]] = {}
        for (split, _), rows in sample.images.items():
            for row in rows:
                values.setdefault(split, set()).update(row[column] if isinstance(row[column], list) else [row[column]])
        for first, second in combinations(values, 2):
            if shared := values[first] & values[second]:
                yield f"{first} and {second} share {len(shared)} of {column!r}: draw from the split's own material"


def questions(sample: Sample) -> Iterator[str]:
    """Every image is asked about, every task asks, and not always for the same."""
    asked = {question["image_id"] for question in sample.questions}
    total = len(SPLITS) * IMAGES
    if len(asked) < total:
        yield f"{total - len(asked)} of {total} images are asked nothing: let a task apply to each"
    for task in sample.spec.tasks:
        answers = {question["answer"] for question in sample.about(task)}
        if len(answers) < 2:
            yield f"{task.name}: {len(answers)} different answers in {total} images: nothing is to be learned from that"


def solutions(sample: Sample) -> Iterator[str]:
    """Every solution earns full marks, and the answer can be read from it."""
    for task in sample.spec.tasks:
        if missing := {"format", "correctness"} - set(task.rewards):
            yield f"{task.name}: it has no reward {' and no '.join(sorted(missing))}: every task has these two"
        for question in sample.about(task):
            short = [name for name, value in score(task, trace_of(task, question), question).items() if value != 1.0]
            if short:
                yield f"{task.name}: a solution does not earn full marks ({', '.join(short)}): {question['solution']!r}"
                break
            if question["answer"] != r1_format.extract_answer(question["solution"]):
                yield f"{task.name}: the answer {question['answer']!r} can't be read from its solution"
                break


def all_answers_at_once(sample: Sample) -> Iterator[str]:
    """To list every answer earns nothing."""
    for task in sample.spec.tasks:
        answers = sorted({question["answer"] for question in sample.about(task)})
        everything = r1_format.format_solution("all", " ".join(answers))
        many = r1_format.OPENING + "</think>" + "".join(f"<answer>{answer}</answer>" for answer in answers)
        earned = [score(task, text, one) for text in (everything, many) for one in sample.about(task)]
        if len(answers) > 1 and any(scores.get("correctness") for scores in earned):
            yield f"{task.name}: all answers at once are right: judge the whole answer"


def attacks(sample: Sample) -> Iterator[str]:
    """No hostile completion earns more than the honest one that it replaces, and none takes long."""
    for task in sample.spec.tasks:
        for result in audit(task, sample.about(task)[:ATTACKED]):
            if result.broke:
                yield f"{task.name}: the attack {result.attack!r} earns more of {result.broke!r} than is due"
            elif result.undue and result.most.get("correctness"):
                yield f"{task.name}: the attack {result.attack!r} counts as right"
            if result.seconds > SECONDS:
                yield f"{task.name}: the attack {result.attack!r} takes {result.seconds:.2f} s to judge: be linear"


def reward_hashes(sample: Sample) -> Iterator[str]:
    """The code that judges can be found, so that a checkpoint can say which it was."""
    for task in sample.spec.tasks:
        reward_hash(task)
    yield from ()


CHECKS = (names, drawing, columns, splits, questions, solutions, all_answers_at_once, attacks, reward_hashes)

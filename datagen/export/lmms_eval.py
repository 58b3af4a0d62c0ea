"""The questions of a dataset as tasks of another evaluator: a folder that lmms-eval loads, judged by our rewards."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path

from datagen.common.files import write_text
from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import UTILS, tasks_asked, write_utils
from datagen.hub.fetch import parse_repo_id
from datagen.registry import reward_names
from datagen.task import DatasetSpec, Task

SPLIT = "test"
# Fields: lmms-eval's docs/guides/task_guide.md and api/task.py. By default it takes the reasoning out of an answer
# before that is judged (`reasoning_tags`), and ends an answer at an empty line (`until`). With `data_files` no other
# split is read, and `datasets` doesn't expect the card's number of rows, of which `filters` leaves those of one task.
# Without a `filter_list` only the first of several answers (`--repeats`) would be judged.
TASK = """\
task: {name}
dataset_path: {path}
dataset_name: r1
dataset_kwargs:
  data_files: {{{split}: {files}}}
  filters: [[task, "==", "{task}"]]{revision}
test_split: {split}
output_type: generate_until
doc_to_messages: !function {utils}.doc_to_messages
doc_to_visual: !function {utils}.doc_to_visual
doc_to_text: !function {utils}.doc_to_text
doc_to_target: answer
process_results: !function {utils}.process_results
filter_list:
- name: none
  filter: [{{function: !function {utils}.AllAnswers}}]
reasoning_tags: "none"
generation_kwargs:
  max_new_tokens: 512
  temperature: 0
  do_sample: false
  until: []
metric_list:
{metrics}
metadata:
  version: {version}
"""
METRIC = "- {{metric: {name}, aggregation: mean, higher_is_better: true}}"
GROUP = """\
group: {name}
task: [{tasks}]
aggregate_metric_list:
{metrics}
metadata:
  version: {version}
"""
GROUP_METRIC = "- {{metric: {name}, aggregation: mean, weight_by_size: true}}"


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the tasks that the test split has questions of into the folder `out`; returns how they are used.

    Raises:
        UserError: where they have several turns.
    """
    group, names = write_tasks(built, out)
    return [
        f"{out}: {group}, the group of {', '.join(names)}",
        f"  lmms-eval --include_path {out} --tasks {group} \\",
        "    --model qwen2_5_vl --model_args pretrained=CHECKPOINT,min_pixels=LOW,max_pixels=HIGH",
        "  LOW and HIGH: shortest_edge and longest_edge in the checkpoint's processor_config.json; without them",
        "  lmms-eval enlarges small images, and asks the model something else than it was trained on",
    ]


def write_tasks(built: BuiltDataset, out: Path) -> tuple[str, list[str]]:
    """Write a file a task, and one for all; returns the name of their group, and theirs.

    Raises:
        UserError: where they have several turns.
    """
    tasks = tasks_asked(built, SPLIT, "lmms-eval")
    group = f"r1vlm_{built.spec.name}"
    names = [f"{group}_{task.name}" for task in tasks]
    write_utils("lmms_eval", built, out)
    for name, task in zip(names, tasks, strict=True):
        write_text(out / f"{name}.yaml", task_yaml(name, built, task))
    write_text(out / f"{group}.yaml", group_yaml(group, names, built.spec, tasks))
    return group, names


def task_yaml(name: str, built: BuiltDataset, task: Task) -> str:
    """The file of a task. Only the test split is read, from the folder or from the commit on the Hub."""
    repository = parse_repo_id(built.name)
    path, revision = repository or (built.name, None)
    # A relative pattern is put behind the folder's name, and that would be a part of the pattern.
    files = f"{'' if repository else glob.escape(path) + '/'}r1/{SPLIT}-*.parquet"
    return TASK.format(
        name=name,
        path=json.dumps(path, ensure_ascii=False),
        split=SPLIT,
        files=json.dumps(files, ensure_ascii=False),
        task=task.name,
        revision=f"\n  revision: {json.dumps(revision)}" if revision else "",
        utils=UTILS,
        metrics="\n".join(METRIC.format(name=reward) for reward in task.rewards),
        version=json.dumps(built.spec.version),
    )


def group_yaml(name: str, names: Sequence[str], spec: DatasetSpec, tasks: Sequence[Task]) -> str:
    """The file of the group of all tasks: the mean of each reward over the questions that have it."""
    rewards = reward_names([task.name for task in tasks])
    return GROUP.format(
        name=name,
        tasks=", ".join(names),
        metrics="\n".join(GROUP_METRIC.format(name=reward) for reward in rewards),
        version=json.dumps(spec.version),
    )

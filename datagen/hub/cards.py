"""The cards of datasets and models: what their pages on the Hub say, from the templates in `cards/`."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from datagen.common.config_file import parse_yaml
from datagen.common.formatting import interval, percent, visible
from datagen.common.options import as_text
from datagen.hub.fetch import NAME
from datagen.hub.record import License
from datagen.schema import card_features, dataset_columns, type_name
from datagen.sources.catalog import SOURCES, SourceInfo
from datagen.task import Column, DatasetSpec, Task

CARD = "README.md"
# What Markdown or HTML would take for its own, and what makes a link of an address.
MARKDOWN = re.compile(r"[\\`*\[\]<>&|~$@]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True)
class DatasetCard:
    """What the dataset template is filled with.

    `front` is the YAML that the Hub reads; `command` draws the same bytes again; `flags` are what the other commands
    need to know the dataset; `examples` are questions by the paths of their pictures; `rewards` are tasks that share
    their rewards, and these by name, defined.
    """

    front: str
    spec: DatasetSpec
    manifest: Mapping[str, Any]
    command: str
    flags: str
    origin: SourceInfo
    columns: dict[str, dict[str, Column]]
    examples: list[tuple[str, Mapping[str, Any]]]
    rewards: list[tuple[list[Task], dict[str, str]]]


def dataset_card(spec: DatasetSpec, manifest: Mapping[str, Any], examples: list[tuple[str, Mapping[str, Any]]]) -> str:
    """The card of a dataset, from its manifest."""
    card = DatasetCard(
        front=front_matter(dataset_metadata(spec, manifest)),
        spec=spec,
        manifest=manifest,
        command=build_command(manifest["recipe"], _task_file(manifest)),
        flags="".join(f" {word}" for word in _task_file(manifest)),
        origin=SOURCES[manifest["recipe"]["source"]],
        columns=dataset_columns(spec),
        examples=examples,
        rewards=[(list(tasks), defined) for defined, tasks in groupby(spec.tasks, reward_definitions)],
    )
    return render("dataset.md.jinja", card=card)


def dataset_metadata(spec: DatasetSpec, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The card's YAML, as a value: licence, languages, tags, and what the Hub's viewer and `datasets` go by.

    The fingerprint of the files is in there because `datasets` 5.2 names its cache of a local folder by the folder's
    last name and this YAML alone: two datasets in folders of one name would be taken for each other.
    """
    tables = manifest["tables"]
    return {
        "license": SOURCES[manifest["recipe"]["source"]].license,
        "language": ["en"],
        "pretty_name": f"r1vlm {spec.name}",
        "size_categories": [size_category(sum(split["rows"] for split in tables["r1"].values()))],
        "task_categories": ["visual-question-answering", "image-text-to-text"],
        "annotations_creators": ["machine-generated"],
        "tags": ["r1vlm", "grpo", "reasoning", "rlvr", "synthetic", *(task.name for task in spec.tasks)],
        "configs": [
            {
                "config_name": table,
                "description": f"content {manifest['fingerprint']}",
                **({"default": True} if table == "r1" else {}),
                "data_files": [{"split": split, "path": f"{table}/{split}-*.parquet"} for split in splits],
            }
            for table, splits in tables.items()
        ],
        "dataset_info": [
            {
                "config_name": table,
                "features": card_features(dataset_columns(spec)[table]),
                "splits": [
                    {"name": split, "num_bytes": size["bytes"], "num_examples": size["rows"]}
                    for split, size in splits.items()
                ],
                "download_size": sum(size["stored"] for size in splits.values()),
                "dataset_size": sum(size["bytes"] for size in splits.values()),
            }
            for table, splits in tables.items()
        ],
    }


def model_repository(tasks: list[str], base: str) -> str:
    """What a checkpoint's repository is called, unless a name is given: dataset (or tasks) and base."""
    from datagen.registry import DATASETS

    whole = [spec.name for spec in DATASETS.values() if [task.name for task in spec.tasks] == tasks]
    name = Path(base).name if Path(base).is_absolute() else base.partition("@")[0].rpartition("/")[2]
    return f"r1vlm-{'-'.join(whole or tasks)}-{name}"


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's record without the paths of the machine it was made on."""
    here = ("run", *(name for name in ("model", "base_model", "dataset") if Path(str(record.get(name))).is_absolute()))
    return {name: value for name, value in record.items() if name not in here}


def model_card(
    record: Mapping[str, Any],
    *,
    repo: str | None = None,
    curve: bool = False,
    result: Mapping[str, Any] | None = None,
) -> str:
    """The card of a checkpoint, from its record.

    `repo` is where it is published, `curve` says that the reward curve is there too. `result` is an evaluation's
    record: of this model alone, or a comparison with what it was before.
    """
    optional = ("base_model", "dataset", "code", "hardware", "git_commit")
    record = {**dict.fromkeys(optional), "license": {}, **public_record(record)}
    metadata = model_metadata(record, result, repo)
    return render(
        "model.md.jinja", front=front_matter(metadata), card=record, repo=repo or "FOLDER", curve=curve, result=result
    )


def model_metadata(record: Mapping[str, Any], result: Mapping[str, Any] | None, repo: str | None) -> dict[str, Any]:
    """The card's YAML, as a value, with the results in the form of the Hub's model index."""
    base, dataset = (NAME.fullmatch(record[key] or "") for key in ("base_model", "dataset"))
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if base and base[2]:  # on the Hub
        metadata |= {"base_model": base[1], "base_model_relation": "finetune"}
    metadata |= record["license"] or {}
    if dataset:
        metadata["datasets"] = [dataset[1]]
    metadata["tags"] = ["r1vlm", "grpo" if record["stage"] == "grpo" else "sft", *record["tasks"]]
    if result is not None:
        name = (repo or "r1vlm").rpartition("/")[2]
        metadata["model-index"] = [{"name": name, "results": model_index(result)}]
    return metadata


def model_index(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The accuracy on each task as the Hub's model index has it."""
    repo, at, commit = result["data"].partition("@")
    if not at or Path(repo).is_absolute():  # a folder
        repo = commit = ""
    dataset = {
        "name": f"r1vlm {'-'.join(result['tasks'])}",
        "type": repo or "r1vlm",
        "config": "r1",
        "split": result["split"],
    }
    return [
        {
            "task": {"type": "visual-question-answering", "name": row["task"]},
            "dataset": {**dataset, **({"revision": commit} if commit else {})},
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"{row['task']}: n = {row['n']}, 95% interval {interval(bounds)}",
                    "value": round(100 * row.get("after", row.get("accuracy")), 2),
                }
            ],
        }
        for row in result["slices"]["by_task"]
        for bounds in [row.get("after_ci95") or row["accuracy_ci95"]]
    ]


def size_category(rows: int) -> str:
    """How the Hub names a number of rows: `1K<n<10K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    for low, (power, high) in zip(["", *bounds], enumerate(bounds, 3), strict=False):
        if rows < 10**power:
            return f"{low}<n<{high}" if low else f"n<{high}"
    return "n>1B"


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Metadata as the YAML at the head of a card."""
    import yaml

    return yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)


def license_of(folder: Path) -> dict[str, str]:
    """The licence in the card of a model folder, in the Hub's terms; empty where it says nothing that can be read."""
    card = folder / CARD
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2) if card.is_file() else []
    try:
        front = parse_yaml(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except ValueError:
        front = None
    terms = front if isinstance(front, dict) else {}
    named = {name: terms[name] for name in ("license", "license_name", "license_link") if name in terms}
    try:
        return {str(name): term for name, term in TypeAdapter(License).validate_python(named).items()}
    except ValidationError:
        return {}


def build_command(recipe: Mapping[str, Any], flags: Sequence[str]) -> str:
    """The command that draws a recipe."""
    words = ["r1vlm-data build", recipe["dataset"], *flags, "--size", recipe["size"], "--seed", recipe["seed"]]
    words += ["--source", recipe["source"], "--splits", "/".join(map(str, recipe["shares"]))]
    return " ".join(map(str, words + [f"--{name} {as_text(value)}" for name, value in recipe["options"].items()]))


def _task_file(manifest: Mapping[str, Any]) -> list[str]:
    """The flag that names the file of a dataset; none where r1vlm or a package has it."""
    code = manifest.get("code")
    return [] if code is None or "package" in code else ["--task-file", shlex.quote(code["file"])]


def reward_definitions(task: Task) -> dict[str, str]:
    """The rewards of a task by name, each with what it says of itself."""
    return {name: " ".join((inspect.getdoc(reward) or "").split()) for name, reward in task.rewards.items()}


def cell(text: str) -> str:
    """Text for a cell of a Markdown table: on one line, its tags shown as they are."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    return "<br>".join(plain.splitlines())


def plain(value: Any) -> str:
    """Somebody's text, or another value, for a line or a table cell: Markdown and HTML show it as it is.

    Nothing in it is a tag, an emphasis, a link or an image, nor is an address a link. Controls are code points.
    """
    return "<br>".join(MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", visible(str(value))).splitlines())


def code(text: str) -> str:
    """Somebody's text as code in Markdown; as plain text where it could end the code or a table's cell."""
    return plain(text) if re.search(r"[`|\n]", text) else f"`{text}`"


def render(template: str, **values: Any) -> str:
    """The card of that template. A value that the template wants and is not given raises."""
    from jinja2 import Environment, StrictUndefined

    # Markdown: what a checkpoint's record says goes through `plain` and `code`, all else is ours
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "written": type_name,
        "cell": cell,
        "plain": plain,
        "code": code,
        "percent": percent,
        "interval": interval,
    }
    return environment.from_string(files("cards").joinpath(template).read_text(encoding="utf-8")).render(**values)

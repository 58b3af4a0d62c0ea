"""What the README promises is true: its task works as written, and its commands and options exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from datagen.dataset.config import DatasetConfig, list_shards
from datagen.dataset.manifest import write_manifest
from datagen.dataset.reader import open_dataset
from datagen.dataset.shards import draw_shard
from datagen.registry import DATASETS, TASKS
from datagen.schema import arrow_schemas
from tests import test_contract
from tests.processes import invoke
from training.launch.plan_rendering import presets_table
from training.models import DEFAULT_MODEL

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_presets_is_what_a_plan_says() -> None:
    assert presets_table(DEFAULT_MODEL) in README


def test_the_task_of_the_readme_is_a_dataset_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    file = tmp_path / "largest.py"
    file.write_text(code)
    found = importlib.util.spec_from_file_location("largest", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "largest", module)
    found.loader.exec_module(module)
    spec = module.LARGEST_DIGIT
    monkeypatch.setitem(DATASETS, spec.name, spec)
    monkeypatch.setitem(TASKS, spec.tasks[0].name, spec.tasks[0])
    for name, check in vars(test_contract).items():
        wanted = set(check.__annotations__) - {"return"} if name.startswith("test_") else set()
        if "spec" in wanted:
            check(**{key: {"spec": spec, "monkeypatch": monkeypatch}[key] for key in wanted})
    recipe = DatasetConfig(dataset=spec.name, size=20, seed=0)
    for shard in list_shards(recipe):  # here and not in workers, which do not know a task that this test alone has
        draw_shard(tmp_path / "built", recipe, arrow_schemas(spec), shard)
    write_manifest(tmp_path / "built", recipe)
    for row in open_dataset(tmp_path / "built").questions("test"):
        assert row["answer"] == str(max(row["digits"]))
        assert spec.tasks[0].rewards["correctness"](row["solution"], row) == 1.0


def calls(command: str) -> list[list[str]]:
    """The words of each call of a command in the README, without the command and without a comment."""
    code = re.findall(r"`([^`]+)`|^    (.+)$", README, flags=re.MULTILINE)
    lines = [re.sub(r"\s+#.*", "", one or other) for one, other in code]
    return [shlex.split(line)[1:] for line in lines if line.startswith(command + " ")]


@pytest.mark.parametrize(
    ("module", "command"),
    [("datagen.cli", "r1vlm-data"), ("training.cli", "r1vlm-train"), ("evaluation.cli", "r1vlm-eval")],
)
def test_every_option_of_the_readme_is_one_of_its_command(
    module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert calls(command)
    for words in calls(command):
        inner = words[: {"build": 2}.get(words[0], 1)] if command == "r1vlm-data" else []
        text = invoke(module, *inner, "--help").stdout
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"(?<!\S){option}(?!\S)", text), f"{command} {' '.join(inner)} has no {option}"

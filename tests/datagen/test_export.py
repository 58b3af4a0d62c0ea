"""What is exported, read the way lmms-eval and verifiers read it.

tests/evaluation/test_lmms_eval.py and tests/datagen/test_verifiers.py have the real ones do it.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datagen import export, r1_format
from datagen.common.errors import UserError
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.dataset.reward_audit import ATTACKS, attacks_on
from datagen.environment import replay
from datagen.export import lmms_eval_utils, verifiers, verifiers_utils
from datagen.export.lmms_eval import UTILS, write_tasks
from datagen.registry import find_task
from datagen.task import score
from tests.datagen.test_rewards import QUESTIONS, SOUP, scores
from tests.processes import invoke, refused


def function_of(folder: Path, name: str) -> Callable[..., Any]:
    """The function `file.name` of a Python file in the folder, as lmms-eval finds it."""
    file, _, function = name.rpartition(".")
    spec = importlib.util.spec_from_file_location(file, folder / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, function)
    return found


def read(path: Path) -> dict[str, Any]:
    """A YAML file of the folder, as lmms-eval reads it."""

    class Loader(yaml.FullLoader):
        pass

    def function(loader: yaml.FullLoader, node: yaml.ScalarNode) -> Callable[..., Any]:
        return function_of(path.parent, loader.construct_scalar(node))

    Loader.add_constructor("!function", function)
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return config


def rows_of(config: dict[str, Any]) -> Any:
    """The questions of a task, as lmms-eval loads them: every split that there is, then one of them."""
    from datasets import load_dataset

    splits = load_dataset(config["dataset_path"], config["dataset_name"], num_proc=1, **config["dataset_kwargs"])
    assert set(splits) == {"test"}
    return splits[config["test_split"]]


def test_every_task_asks_what_we_ask_and_is_judged_as_we_judge(built: Path, tmp_path: Path) -> None:
    if open_dataset(built).spec.has_turns:
        assert "which lmms-eval can't ask" in refused(invoke("datagen.cli", "export", "lmms-eval", built, cwd=tmp_path))
        return
    dataset = open_dataset(built)
    group, names = write_tasks(dataset, tmp_path)
    tasks = [task for task in dataset.spec.tasks if task.name in dataset.questions("test")["task"]]
    assert names == [f"r1vlm_{dataset.spec.name}_{task.name}" for task in tasks]
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted([UTILS, group, *names])
    together = read(tmp_path / f"{group}.yaml")
    assert (together["group"], together["task"]) == (group, names)
    assert {one["metric"] for one in together["aggregate_metric_list"]} == {name for t in tasks for name in t.rewards}
    assert all(one["weight_by_size"] for one in together["aggregate_metric_list"])
    for name, task in zip(names, tasks, strict=True):
        config = read(tmp_path / f"{name}.yaml")
        assert config["task"] == name
        assert [one["metric"] for one in config["metric_list"]] == list(task.rewards)
        # lmms-eval's own defaults take the reasoning out of the answer, and end it at an empty line
        assert config["reasoning_tags"] == "none"
        assert config["generation_kwargs"]["until"] == []
        assert config["generation_kwargs"]["temperature"] == 0
        asked, ours = rows_of(config), dataset.questions("test", [task.name])
        assert list(asked["id"]) == list(ours["id"])
        for row in asked:
            system, user = config["doc_to_messages"](row)
            assert [{"role": one["role"], "content": one["content"][-1]["text"]} for one in (system, user)] == row[
                "prompt"
            ]
            assert [part["type"] for part in (*system["content"], *user["content"])] == ["text", "image", "text"]
            assert user["content"][0]["url"] is row["image"]
            assert config["doc_to_visual"](row) == [row["image"]]
            assert config["doc_to_text"](row) == row["prompt"][1]["content"]
        for row in asked.remove_columns("image"):  # lmms-eval judges without the image, and strips what was generated
            judge = config["process_results"]
            right = r1_format.completion_of(row["solution"])
            assert judge(row, [right.strip()]) == dict.fromkeys(task.rewards, 1.0)
            for attack in ATTACKS:
                wrong = r1_format.completion_of(attack.text(row))
                assert judge(row, [wrong.strip()]) == scores(r1_format.full_message(wrong), row), attack.name


@given(st.text() | SOUP, QUESTIONS.filter(lambda question: "turns" not in question))
def test_any_completion_stripped_as_lmms_eval_does_gets_our_rewards(completion: str, question: dict[str, Any]) -> None:
    assert lmms_eval_utils.process_results(question, [completion.strip()]) == scores(
        r1_format.full_message(completion), question
    )


def test_a_task_that_is_not_asked_is_left_out(tmp_path: Path) -> None:
    build(DatasetConfig(dataset="messages", size=20, seed=1, options={"words": (1, 1)}), tmp_path / "data", workers=1)
    done = invoke("datagen.cli", "export", "lmms-eval", "data", "--out", "tasks", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "tasks").iterdir()} == {
        f"{UTILS}.py",
        "r1vlm_messages.yaml",
        "r1vlm_messages_word_1.yaml",
    }
    assert "--tasks r1vlm_messages" in done.stdout


@pytest.mark.parametrize("built", ["digits"], indirect=True)
def test_the_cache_of_datasets_does_not_take_one_folder_for_another(
    built: Path, digits_folder: Path, tmp_path: Path
) -> None:
    assert built.name == digits_folder.name
    for folder in (built, digits_folder):
        dataset = open_dataset(folder)
        write_tasks(dataset, tmp_path)
        asked = rows_of(read(tmp_path / "r1vlm_digits_sum.yaml"))
        assert list(asked["id"]) == list(dataset.questions("test", ["sum"])["id"])


def test_the_card_says_that_ms_swift_needs_an_export(built: Path) -> None:
    assert "r1vlm-data export ms-swift" in (built / "README.md").read_text()


def test_what_is_in_the_folder_stays(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("theirs")
    for _ in range(2):
        write_tasks(open_dataset(digits_folder), tmp_path)
    assert (tmp_path / "utils.py").read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


def test_a_folder_whose_name_yaml_would_misread(digits_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(shutil.copytree(digits_folder, tmp_path / 'my "data": #1, é'))
    write_tasks(dataset, tmp_path)
    config = read(tmp_path / "r1vlm_digits_sum.yaml")
    assert config["dataset_path"] == dataset.name
    assert list(rows_of(config)["id"]) == list(dataset.questions("test", ["sum"])["id"])


def package_of(name: str) -> tuple[str, str]:
    """The name of a dataset's package for verifiers, and its module."""
    return f"r1vlm-{name}-verifiers", f"r1vlm_{name.replace('-', '_')}_verifiers"


def constants(module: Path) -> dict[str, Any]:
    """The constants at the top of a file, which is not run."""
    found = {}
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def test_a_package_for_verifiers_asks_and_judges_as_we_do(built: Path, tmp_path: Path) -> None:
    dataset = open_dataset(built)
    project, module = package_of(dataset.spec.name)
    lines = verifiers.export(dataset, tmp_path)
    assert any(f"vf-eval {project} " in line and "--no-push" in line for line in lines)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"README.md", "pyproject.toml", f"{module}/__init__.py", f"{module}/r1vlm_utils.py"}
    about = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert about["project"]["name"] == project
    assert about["project"]["dependencies"] == ["r1vlm", "verifiers==0.4.*"]
    assert about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [module]
    written = constants(tmp_path / module / "__init__.py")
    assert written == {"__all__": ["R1vlmEnv", "R1vlmHarness", "R1vlmTaskset"], "DATA": dataset.name}
    ours = {name: function_of(tmp_path / module, f"r1vlm_utils.{name}") for name in ("rows", "row_of", "ask", "judge")}
    questions = dataset.questions("test")
    asked = list(ours["rows"](dataset.name, "test", dataset.spec.name))
    assert [(index, row["id"]) for index, row in asked] == list(enumerate(questions["id"]))
    task = dataset.spec.tasks[0].name
    assert {row["task"] for _, row in ours["rows"](dataset.name, "test", task)} == {task}
    for index, row in asked:
        assert ours["row_of"](dataset.name, "test", index) == questions[index]
        system, user = ours["ask"](row)
        assert [{"role": "system", "content": system}, {"role": "user", "content": user["content"][1]["text"]}] == row[
            "prompt"
        ]
        assert [part["type"] for part in user["content"]] == ["image_url", "text"]
        assert set(ours["judge"]([*(row.get("turns") or ()), row["solution"]], row).values()) == {1.0}
        asks = find_task(row["task"])
        for attack in attacks_on(asks):
            text = attack.text(row)
            said = [text] if isinstance(text, str) else text
            assert ours["judge"](said, row) == score(asks, replay(asks, said, row), row), attack.name


@given(reasoning=st.none() | st.text(), content=st.none() | st.text())
def test_what_a_server_gives_follows_the_opening_words(reasoning: str | None, content: str | None) -> None:
    said = verifiers_utils.said(reasoning, content)
    assert said.startswith(r1_format.OPENING)
    assert said.removeprefix(r1_format.OPENING) == (
        f"{reasoning}</think>{content}" if reasoning and content else reasoning or content or ""
    )


@pytest.mark.parametrize("built", ["digits", "zoom"], indirect=True)
def test_a_package_for_verifiers_is_code_as_ours(built: Path, tmp_path: Path) -> None:
    verifiers.write_package(open_dataset(built), tmp_path)
    settings = ("--config", Path(__file__).parents[2] / "pyproject.toml", "--no-cache", "--ignore", "S108")  # /tmp
    words = [sys.executable, "-m", "ruff", "check", *settings, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_several_images_are_said_where_a_server_must_allow_them(digits_folder: Path, tmp_path: Path) -> None:
    zoom = open_dataset(build(DatasetConfig(dataset="zoom", size=20), tmp_path / "zoom", workers=1))
    for dataset, images in ((open_dataset(digits_folder), None), (zoom, 4)):
        verifiers.write_package(dataset, tmp_path / dataset.spec.name / "package")
        text = (tmp_path / dataset.spec.name / "package" / "README.md").read_text()
        assert ("--limit-mm-per-prompt" in text) == (images is not None)
        assert images is None or f'{{"image": {images}}}' in text


@pytest.mark.parametrize("text", ['[project]\nname = "mine"\n', "[project]\n", "project = 3\n", "not = [toml", "\xff"])
def test_another_package_is_not_written_over(text: str, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="has another package in it: name another folder with --out"):
        verifiers.export(open_dataset(digits_folder), tmp_path)
    assert (tmp_path / "pyproject.toml").read_bytes() == text.encode("latin-1")
    assert list(tmp_path.iterdir()) == [tmp_path / "pyproject.toml"]


def test_a_package_for_verifiers_is_written_again(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("theirs")
    for _ in range(2):
        verifiers.write_package(open_dataset(digits_folder), tmp_path)
    assert (tmp_path / "theirs.txt").read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "name", ['it\'s "q" \\ #1 {x}', "$dataset ${module}", "é\n\t", b"\xff".decode(errors="surrogateescape")]
)
def test_a_folder_whose_name_python_would_misread(name: str, digits_folder: Path, tmp_path: Path) -> None:
    dataset = replace(open_dataset(digits_folder), name=str(tmp_path / name))
    verifiers.write_package(dataset, tmp_path)
    assert constants(tmp_path / package_of("digits")[1] / "__init__.py")["DATA"] == dataset.name


def test_an_unknown_tool_is_refused_with_the_known_ones(digits_folder: Path, tmp_path: Path) -> None:
    said = refused(invoke("datagen.cli", "export", "verifier", digits_folder, cwd=tmp_path))
    assert all(tool in said for tool in get_args(export.Tool))

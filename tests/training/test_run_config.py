"""The typed way in: what a configuration stands for on a command line and in a file, and `training.run` itself."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import training
from datagen.common.config_file import dump_yaml, parse_yaml
from datagen.common.errors import UserError
from datagen.hub.publish import PublishOptions
from tests.processes import invoke, refused
from tests.training.conftest import TINY
from training import cli, pipeline
from training.config import RunConfig, StageConfig

NAMES = st.text("abcXYZ019_./@-", min_size=1, max_size=12).filter(lambda text: not text.startswith("-"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\x85\ufeff"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
POSITIVE = st.floats(0, 1e6, exclude_min=True)
CONFIGS = st.builds(
    RunConfig,
    task=st.sampled_from(["digits", "sum", "messages"]),
    model=st.none() | NAMES,
    data=st.none() | NAMES,
    out=st.none() | NAMES.map(Path),
    resume=st.booleans(),
    cold_start=st.booleans(),
    seed=st.integers(0, 2**40),
    report=st.booleans(),
    hardware=st.sampled_from(["auto", "cpu", "4gpu"]),
    nodes=st.none() | st.integers(2, 99),
    gpu_memory=st.none() | st.floats(1, 10_000),
    vllm=st.sampled_from([None, "off", "colocate", "server"]),
    preflight=st.booleans(),
    watchdog=POSITIVE,
    recipe=st.none() | NAMES,
    steps=st.none() | st.integers(1, 10**6),
    learning_rate=st.none() | POSITIVE,
    num_generations=st.none() | st.integers(2, 99),
    curriculum=st.sampled_from([None, "none", "difficulty", "pool"]),
    traces=st.none() | st.integers(1, 10**6),
    eval_steps=st.none() | st.integers(1, 10**6),
    report_to=st.none() | NAMES,
    config=st.none() | NAMES.map(Path),
    settings=st.dictionaries(st.text("abc_", min_size=1, max_size=8), VALUES, max_size=3),
    push=st.none()
    | st.builds(
        PublishOptions,
        repo=st.none() | NAMES,
        revision=st.none() | NAMES,
        create_pr=st.booleans(),
        private=st.booleans(),
        force=st.booleans(),
    ),
)


def parsed(*words: str) -> RunConfig:
    """What the command would run for some arguments."""
    run: list[RunConfig] = []
    with patch.object(cli, "run", run.append):
        done = invoke("training.cli", *words)
    assert done.returncode == 0, done.stderr
    return run[0]


@example(RunConfig(task="digits", settings={"max_grad_norm": math.inf, "run_name": "1e3"}))
@given(CONFIGS)
def test_the_words_of_a_configuration_are_parsed_to_the_same_one(config: RunConfig) -> None:
    assert parsed(*config.as_words()) == config


@example(RunConfig(task="digits", settings={"max_grad_norm": math.inf, "run_name": "1e3"}))
@given(CONFIGS)
def test_a_file_of_a_configuration_is_read_as_the_same_one(
    tmp_path_factory: pytest.TempPathFactory, config: RunConfig
) -> None:
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    values = {key: str(value) if isinstance(value, Path) else value for key, value in config.model_dump().items()}
    file.write_text(dump_yaml(values), encoding="utf-8")
    assert parsed(str(file)) == config


def test_flags_override_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task: digits\nvllm: off\nsteps: 5\nsettings: {temperature: 0.5, beta: 0.1}\npush: {repo: a/b}\n")
    words = ["--steps", "7", "--set", "beta=0", "--set", "save_steps=3", "--no-report", "--task", "sum"]
    config = parsed(str(file), *words)
    assert config == RunConfig(
        task="sum",
        vllm="off",
        steps=7,
        report=False,
        settings={"temperature": 0.5, "beta": 0, "save_steps": 3},
        push=PublishOptions(repo="a/b"),
    )


def test_a_task_of_a_dataset_keeps_the_datasets_folders() -> None:
    folders = {"data": "data/digits", "out": Path("runs/digits")}
    assert parsed("digits", "--task", "sum") == RunConfig(task="sum", **folders)
    assert parsed("digits", "--task", "all") == RunConfig(task="digits", **folders)
    assert parsed("sum") == RunConfig(task="sum")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: digits\nstep: 3\n", "unknown key 'step': did you mean 'steps'"),
        ("task: digits\nsteps: many\n", "wrong 'steps', 'many'"),
        ("task: digits\npush: {repository: a}\n", "wrong 'push.repository'"),
        ("task: digits\nsettings: [1]\n", "wrong 'settings'"),
        ("steps: 3\n", "has no 'task'"),
        ("- digits\n", "holds no configuration"),
        ("task: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_gets_one_sentence_that_names_the_key(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    sentence = refused(invoke("training.cli", "run.yaml", cwd=tmp_path))
    assert "run.yaml" in sentence
    assert says in sentence


def files(folder: Path) -> dict[str, Any]:
    """The files of a run folder: their bytes, or what they hold where times are in it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if "time" not in key} for row in rows]
        elif path.name == "trainer_state.json":
            state = json.loads(path.read_text())
            state["log_history"] = [
                {key: value for key, value in row.items() if "time" not in key} for row in state["log_history"]
            ]
            found[name] = state
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_the_function_leaves_the_files_of_the_command_and_comes_back(
    few_digits: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, "--steps", "2", *TINY]
    done = invoke("training.cli", *words, "--no-report", "--set", "save_steps=1")
    assert done.returncode == 0, done.stderr
    by_command = files(out)
    shutil.rmtree(out)
    config = RunConfig(
        task="digits",
        data=str(few_digits),
        model=str(random_checkpoint),
        out=out,
        steps=2,
        report=False,
        settings={
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 32,
            "save_steps": 1,
        },
    )
    with patch.dict(os.environ):
        assert training.run(config) == out / "final"
        by_function = files(out)
        assert by_function.keys() == by_command.keys()
        for name, content in by_command.items():
            assert by_function[name] == content, name
        assert training.run(config.model_copy(update={"resume": True, "report": True})) == out / "final"
    assert (out / "report" / "report.html").is_file()


def test_a_report_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3))
    with pytest.raises(UserError, match=r"exit code 3: repeat it with  r1vlm-eval .*final --baseline"):
        pipeline.report(tmp_path / "final", "small", {}, replace_process=False)


def test_a_run_of_an_older_version_goes_on_though_its_reward_hashes_were_others(tmp_path: Path) -> None:
    def stage(reward_hash: str) -> StageConfig:
        return StageConfig("grpo", "small", "data", ["sum"], str(tmp_path), 0, {}, "fingerprint", {"sum": reward_hash})

    pipeline.record_stage(tmp_path, stage("d46b0c453845a77f"))
    pipeline.record_stage(tmp_path, stage("v2-9056b258e2ce2bf6"))
    (tmp_path / "run.json").unlink()
    pipeline.record_stage(tmp_path, stage("v2-0000000000000000"))
    with pytest.raises(UserError, match="was started with reward_hash="):
        pipeline.record_stage(tmp_path, stage("v2-9056b258e2ce2bf6"))


@pytest.mark.parametrize("line", ["vllm: off", "settings: {run_name: 2026-11-27, report_to: no}", "seed: 017"])
def test_a_file_is_yaml_1_2_in_which_off_and_dates_are_texts(line: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"task: digits\nhardware: cpu\n{line}\n")
    done = invoke("training.cli", "run.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert parse_yaml("[off, 2026-11-27, 017, 1e-7]") == ["off", "2026-11-27", 17, 1e-7]

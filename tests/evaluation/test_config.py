"""The typed way in: the function, the command and a YAML file leave the same files; what is cached stays reachable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from datasets import Dataset
from pydantic import ValidationError

from datagen.common.errors import UserError
from datagen.hub.publish import PublishOptions
from datagen.task import DatasetSpec
from datagen.tasks.words import WORDS
from datagen.taskset.questions import TasksetDataset
from evaluation import EvalConfig, EvalResult, cli, config, evaluate, evaluator, generation
from evaluation.backends.base import Sampling
from evaluation.completion_cache import cache_path, open_cache
from evaluation.config import make_plan
from evaluation.generation import AnswerGenerator
from evaluation.model_source import ModelSource
from evaluation.prompt_variants import DIRECT, R1, ablation_variants
from tests.evaluation.conftest import Call, solutions, write_lines
from tests.processes import refused


@pytest.fixture
def solved(tmp_path: Path, questions: list[dict[str, Any]]) -> Path:
    return write_lines(tmp_path / "solved.jsonl", solutions(questions) | {questions[0]["id"]: "no"})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_function_the_command_and_a_yaml_file_leave_the_same_files(
    random_checkpoint: Path, solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    """Of the model, which answers once: then its completions are cached, with the seconds that they took."""
    out = tmp_path / "out"
    settings: dict[str, Any] = {
        "checkpoint": str(random_checkpoint),
        "data": str(digits_folder),
        "limit": 4,
        "max_new_tokens": 3,
        "controls": True,
        "report": True,
        "log_samples": True,
        "out": str(out),
    }
    evaluate(EvalConfig(**settings))
    result = evaluate(EvalConfig(**settings))  # as the others: everything is cached
    by_function = files(out)
    assert isinstance(result, EvalResult)
    assert (result.out, result.comparison, len(result.rows)) == (out, None, 4)
    assert result.summary == result.results["after"]
    assert result.scored["after"].correctness.mean() == result.summary["accuracy"]

    words = ("--data", digits_folder, "--limit", 4, "--max-new-tokens", 3, "--controls", "--report", "--log-samples")
    assert r1vlm_eval(random_checkpoint, *words, "--out", out).returncode == 0
    assert files(out) == by_function

    (tmp_path / "eval.yaml").write_text(yaml.safe_dump({**settings, "limit": 40}))
    assert r1vlm_eval(tmp_path / "eval.yaml", "--limit", 4).returncode == 0  # a flag overrides the file
    assert files(out) == by_function


def test_every_flag_is_a_field_with_the_same_default() -> None:
    others = {"checkpoint", "version", "install_completion", "show_completion", *cli.PUBLISH_FLAGS}
    flags = {flag.name: flag.default for flag in typer.main.get_command(cli.app).params if flag.name not in others}
    fields = EvalConfig(checkpoint="x").model_dump(exclude={"checkpoint", "push"})
    assert {**flags, "beside": ()} == fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint: x\nlimt: 3", "eval.yaml has an unknown key 'limt': did you mean 'limit'?"),
        ("checkpoint: x\nlimit: 0", "eval.yaml has a wrong 'limit', 0: input should be greater than or equal to 1"),
        ("checkpoint: x\nsplit: exam", "eval.yaml has a wrong 'split', 'exam': input should be 'train', 'validation'"),
        ("checkpoint: x\npush: {repos: a/b}", "eval.yaml has a wrong 'push.repos', 'a/b': unexpected keyword argument"),
        ("limit: 3", "eval.yaml has no 'checkpoint': add it"),
        ("- checkpoint", "eval.yaml holds no configuration"),
        ("checkpoint: [", "eval.yaml is not valid YAML"),
    ],
)
def test_a_wrong_yaml_file(text: str, message: str, tmp_path: Path, r1vlm_eval: Call) -> None:
    (tmp_path / "eval.yaml").write_text(text)
    assert message in refused(r1vlm_eval(tmp_path / "eval.yaml"))
    assert "can't read" in refused(r1vlm_eval(tmp_path / "none.yaml"))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"temperature": 11}, {"split": "exam"}, {"engine": "x"}, {"limt": 1}])
def test_a_wrong_configuration(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EvalConfig(checkpoint="x", **wrong)


def test_results_behind_the_checkpoint_are_beside_it(
    solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    common = ("--data", digits_folder, "--task", "sum", "--out")
    for name in ("one", "two", "three"):
        assert r1vlm_eval(solved, *common, tmp_path / name).returncode == 0
    one, two, three = (tmp_path / name / "results.json" for name in ("one", "two", "three"))
    called = r1vlm_eval(solved, *common, tmp_path / "out", "--beside", one, two, "--beside", three)
    assert called.returncode == 0, called.stderr
    assert all(f"\n{name} " in called.stdout for name in ("one", "two", "three"))


def test_what_was_cached_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is that of the first released format: another one would pay for every completion again."""
    versions = {"name": "transformers", "transformers": "5.17.0", "torch": "2.13.0"}
    monkeypatch.setattr(generation, "backend_versions", lambda name: versions)
    data = SimpleNamespace(fingerprint="d" * 64)
    plan: Any = SimpleNamespace(sampling=Sampling(512), dataset=data, tasks=["sum"], backend="transformers")
    model: Any = SimpleNamespace(fingerprint="m" * 64, endpoint=None)
    assert cache_path(AnswerGenerator(plan, model).cache_key(R1, ["id"] * 40)).name == "a97e9f1f2d7206dc81aac7ed.jsonl"


def test_answers_to_changed_questions_are_kept_for_the_code_that_changed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "backend_versions", lambda name: {"name": name})
    data = SimpleNamespace(fingerprint="d" * 64)
    plan: Any = SimpleNamespace(sampling=Sampling(512), dataset=data, tasks=["word"], backend="transformers")
    generator = AnswerGenerator(plan, ModelSource("m", Path("m"), {}, "http://localhost:1/v1"))

    def keys(spec: DatasetSpec) -> dict[str, Path]:
        variants = [R1, DIRECT, *ablation_variants(spec, {})]
        return {one.name: cache_path(generator.cache_key(one, ["id"] * 40)) for one in variants}

    def drawn_otherwise(rng: Any, row: Any, options: Any) -> Any:
        raise NotImplementedError

    before, after = keys(WORDS), keys(replace(WORDS, counterfactual=drawn_otherwise))
    assert {name for name in before if before[name] != after[name]} == {"exchanged"}
    monkeypatch.setattr(generation, "version", lambda name: "0.0.1")
    assert {name for name, path in keys(WORDS).items() if path == before[name]} == {"r1"}


def test_that_nothing_is_said_at_once_is_odd_of_a_server_alone() -> None:
    plan: Any = SimpleNamespace(sampling=Sampling(512), backend="transformers")
    doubts = {}
    for endpoint in (None, "http://localhost:1/v1"):
        generator = AnswerGenerator(plan, ModelSource("m", Path("m"), {}, endpoint))
        doubts[endpoint] = [generator._doubts(variant, ["", "", "7"], []) for variant in (DIRECT, R1)]
    assert [len(one) for one in doubts[None]] == [0, 1]
    assert [len(one) for one in doubts["http://localhost:1/v1"]] == [1, 1]


@pytest.mark.parametrize("name", ["adapter/tokenizer.model", "base/config.json", "base/generation_config.json"])
def test_a_file_that_changes_the_answers_changes_the_fingerprint(name: str, tmp_path: Path) -> None:
    for folder in ("adapter", "base"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_text(folder)
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    )

    def fingerprint() -> str:
        return ModelSource("m", tmp_path / "adapter", {}).fingerprint

    before = fingerprint()
    (tmp_path / name).write_text('{"rope_theta": 1}')
    assert fingerprint() != before


@pytest.mark.parametrize("sampled", [{"samples": 2}, {"temperature": 0.5}])
def test_no_card_calls_sampled_answers_greedy(
    sampled: dict[str, Any], random_checkpoint: Path, digits_folder: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(random_checkpoint, tmp_path / "model")
    record = {"checkpoint": "c", "run_hash": "r", "stage": "grpo", "tasks": ["sum"], "step": 1, "shown": "Nothing."}
    more = {"seed": 0, "settings": {}, "versions": {}, "reward_hash": {}, "dataset_fingerprint": "f"}
    (model / "r1vlm.json").write_text(json.dumps(record | more))
    common: dict[str, Any] = {"checkpoint": str(model), "data": str(digits_folder), "out": tmp_path / "out"}
    with pytest.raises(UserError, match="a card speaks of greedy answers: leave out --samples and --temperature"):
        make_plan(EvalConfig(**common, **sampled, push=PublishOptions("ada/model")))


def test_two_do_not_ask_the_same_questions_at_once() -> None:
    with (
        open_cache({"model": "a"}),
        open_cache({"model": "b"}),
        pytest.raises(UserError, match="another r1vlm-eval is asking the same questions"),
        open_cache({"model": "a"}),
    ):
        pass
    with open_cache({"model": "a"}) as cache:
        assert cache.completions == {}


def test_two_do_not_write_to_one_folder_at_once(
    solved: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = EvalConfig(checkpoint=str(solved), data=str(digits_folder), out=tmp_path / "out")
    select_questions = evaluator.select_questions

    def meanwhile(plan: Any) -> Any:
        monkeypatch.setattr(evaluator, "select_questions", select_questions)
        with pytest.raises(UserError, match=r"another r1vlm-eval writes to .*: wait for it, or name another folder"):
            evaluate(asked.model_copy(update={"limit": 2}))
        return select_questions(plan)

    monkeypatch.setattr(evaluator, "select_questions", meanwhile)
    assert evaluate(asked).summary["n"] == 40


def test_the_package_is_light_to_import() -> None:
    code = "import sys, evaluation; evaluation.EvalConfig; print({'torch', 'datasets', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_limit_of_a_taskset_that_was_trained_on_counts_the_questions_that_are_asked(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifiers is not needed for it: of 20 tasks the last two are the test split."""

    def open_taskset(name: str, limit: int | None = None) -> TasksetDataset:
        rows = Dataset.from_dict({"task": ["theirs"] * 20, "split": ["train"] * 18 + ["test"] * 2})
        manifest = {"recipe": {"dataset": "digits", "options": {}}, "fingerprint": "f", "files": {}}
        return TasksetDataset(name, tmp_path, manifest, taskset=None, rows=rows.select(range(limit or 20)))

    monkeypatch.setattr(config, "open_taskset", open_taskset)
    model = shutil.copytree(random_checkpoint, tmp_path / "model")
    asked = EvalConfig(checkpoint=str(model), env="theirs", limit=3, out=tmp_path / "out")
    assert len(make_plan(asked).dataset.questions("test")) == 3
    (model / "r1vlm.json").write_text(json.dumps({"dataset_fingerprint": "f"}))
    assert make_plan(asked).dataset.questions("test")["split"] == ["test"] * 2

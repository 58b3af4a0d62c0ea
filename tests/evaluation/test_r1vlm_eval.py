"""The command: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datagen import r1_format
from datagen.dataset.reader import open_dataset
from datagen.registry import find_task
from datagen.task import reward_hash
from evaluation import generation
from evaluation.model_source import open_model, record_mismatches
from tests.evaluation.conftest import Call, read, solutions, write_lines

RESULT_KEYS = {
    *("model", "data", "dataset_fingerprint", "split", "task", "n", "accuracy", "accuracy_ci95", "rewards", "slices"),
    *("engine", "seconds", "reward_hash", "shown", "warnings"),
}
SCORES = ("n", "accuracy", "accuracy_ci95", "rewards", "slices", "reward_hash")


@pytest.fixture
def solved(tmp_path: Path, questions: list[dict[str, Any]]) -> Path:
    return write_lines(tmp_path / "solved.jsonl", solutions(questions))


@pytest.fixture
def recorded(random_checkpoint: Path, digits_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint with a record, as training leaves it."""
    folder = shutil.copytree(random_checkpoint, tmp_path / "run" / "checkpoint-3")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.1}\n{"step": 2, "reward": 0.2}\n')
    record = {
        "dataset": str(digits_folder),
        "dataset_fingerprint": open_dataset(digits_folder).fingerprint,
        "reward_hash": {name: reward_hash(find_task(name)) for name in ("list", "sum")},
        "stage": "grpo",
        "shown": "It has been shown nothing at all.",
        "run": str(tmp_path / "run"),
        "step": 3,
        "beside": [{"name": "supervised", "accuracy": 0.7, "accuracy_ci95": [0.6, 0.8], "n": 40, "shown": "Traces."}],
    }
    (folder / "r1vlm.json").write_text(json.dumps(record))
    return folder


def change_record(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "r1vlm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_solutions_score_one(solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    done = r1vlm_eval(solved, "--task", "sum", "--data", digits_folder, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = read(tmp_path / "out" / "results.json")
    assert set(result) >= RESULT_KEYS
    assert (result["accuracy"], result["n"], result["tasks"]) == (1.0, 20, ["sum"])
    assert result["rewards"] == {"format": 1.0, "correctness": 1.0}
    assert "100.0%" in done.stdout


def test_help(r1vlm_eval: Call) -> None:
    done = r1vlm_eval("--help")
    assert done.returncode == 0
    assert "CHECKPOINT" in done.stdout


def test_mistakes_are_found_before_anything_heavy_is_imported(random_checkpoint: Path, digits_folder: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['r1vlm-eval', {str(random_checkpoint)!r}, '--data', {str(digits_folder)!r}, '--task', 'summ']\n"
        "from evaluation.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    print(ended.code)\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'datasets', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
    assert done.stderr == "r1vlm-eval: there is no task 'summ': did you mean 'sum'?\n"


def test_rescoring_a_run_gives_its_numbers(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call, questions: list[dict[str, Any]]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    called = r1vlm_eval(random_checkpoint, "--data", digits_folder, "--out", first, "--max-new-tokens", 6)
    assert called.returncode == 0, called.stderr
    lines = [json.loads(line) for line in (first / "completions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [question["id"] for question in questions]
    assert all(line["completion"].startswith(r1_format.OPENING) for line in lines)
    assert r1vlm_eval(first / "completions.jsonl", "--data", digits_folder, "--out", again).returncode == 0
    one, other = read(first / "results.json"), read(again / "results.json")
    assert {key: one[key] for key in SCORES} == {key: other[key] for key in SCORES}
    assert one["engine"]["name"] == "transformers"
    assert other["engine"]["name"] == "completions file"


def test_the_checkpoints_record_is_used(recorded: Path, tmp_path: Path, r1vlm_eval: Call, digits_folder: Path) -> None:
    out = tmp_path / "out"
    called = r1vlm_eval(recorded, "--out", out, "--limit", 3, "--max-new-tokens", 4, "--report")
    assert called.returncode == 0, called.stderr
    result = read(out / "results.json")
    assert (result["data"], result["n"], result["warnings"]) == (str(digits_folder), 3, [])
    assert (result["stage"], result["shown"]) == ("grpo", "It has been shown nothing at all.")
    assert [row["name"] for row in result["beside"]] == ["supervised"]
    assert "supervised" in called.stdout
    assert "supervised was scored on other questions" in called.stdout  # on 40, and here are 3
    page = (out / "report.html").read_text()
    assert "It has been shown nothing at all." in page
    assert page.count("<polyline") == 2


def test_a_record_that_does_not_fit_is_the_first_line(recorded: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    change_record(recorded, dataset_fingerprint="0" * 64, reward_hash=dict.fromkeys(("sum", "list"), "v2-" + "0" * 16))
    called = r1vlm_eval(recorded, "--task", "sum", "--out", tmp_path / "o", "--limit", 2, "--max-new-tokens", 2)
    first, second, *_ = called.stdout.splitlines()
    assert first.startswith("warning: run/checkpoint-3 was made with another dataset than")
    assert second.startswith("warning: The rewards of task 'sum' have changed since run/checkpoint-3 was made")
    warnings = read(tmp_path / "o" / "results.json")["warnings"]
    assert [f"warning: {text}" for text in warnings] == [first, second]


def test_an_older_kind_of_reward_hash_is_explained_and_not_compared(recorded: Path, digits_folder: Path) -> None:
    change_record(recorded, reward_hash=dict.fromkeys(("sum", "list"), "0" * 16))
    (warning,) = record_mismatches(open_model(str(recorded)), open_dataset(digits_folder), ["sum"])
    assert "records its rewards by an older kind of hash" in warning
    assert "have changed" not in warning


def test_a_question_is_asked_again_only_where_something_has_changed(
    recorded: Path, tmp_path: Path, r1vlm_eval: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "cache"))
    loads: list[object] = []
    load = generation.load_backend
    monkeypatch.setattr(generation, "load_backend", lambda *about: (loads.append(about[0].sampling), load(*about))[1])
    arguments = (recorded, "--out", tmp_path / "out", "--limit", 3, "--max-new-tokens")
    assert r1vlm_eval(*arguments, 4).returncode == 0
    first = read(tmp_path / "out" / "results.json")
    assert "all 3 answers are there already" in r1vlm_eval(*arguments, 4).stdout
    assert read(tmp_path / "out" / "results.json") == first
    assert r1vlm_eval(recorded, "--out", tmp_path / "elsewhere", "--limit", 2, "--max-new-tokens", 4).returncode == 0
    assert len(loads) == 1
    assert r1vlm_eval(*arguments, 5).returncode == 0  # another setting
    from safetensors.torch import load_file, save_file

    weights = {name: tensor + 0.1 for name, tensor in load_file(recorded / "model.safetensors").items()}
    save_file(weights, recorded / "model.safetensors", {"format": "pt"})
    assert r1vlm_eval(*arguments, 5).returncode == 0  # other weights
    assert len(loads) == 3
    [kept] = [
        path
        for path in (tmp_path / "cache/completions").iterdir()
        if path.stat().st_mtime == max(one.stat().st_mtime for one in (tmp_path / "cache/completions").iterdir())
    ]
    torn = kept.read_bytes()
    kept.write_bytes(torn[: torn.rindex(b'{"id"') + 9])  # what a kill may leave
    assert r1vlm_eval(*arguments, 5).returncode == 0
    assert len(loads) == 4
    asked = [line["id"] for line in map(json.loads, kept.read_bytes().splitlines()) if "id" in line]
    written = [line["id"] for line in map(json.loads, (tmp_path / "out/completions.jsonl").read_text().splitlines())]
    assert sorted(asked) == sorted(written)  # questions are asked task by task


def test_baseline(solved: Path, recorded: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    out = tmp_path / "out"
    sides = (solved, "--baseline", recorded)  # the dataset is the one of the baseline's record
    called = r1vlm_eval(*sides, "--task", "sum", "--out", out, "--max-new-tokens", 3, "--report")
    assert called.returncode == 0, called.stderr
    names = {"before.json", "after.json", "comparison.json", "rows.jsonl"}
    names |= {"before.completions.jsonl", "after.completions.jsonl"}
    assert {path.name for path in out.iterdir()} == {*names, "report.html"}
    comparison = read(out / "comparison.json")
    assert comparison["before"] == read(out / "before.json")["accuracy"] == 0.0
    assert comparison["after"] == read(out / "after.json")["accuracy"] == 1.0
    assert comparison["shown"] == {"before": "It has been shown nothing at all.", "after": None}
    assert comparison["p_value"] == pytest.approx(2 / 2**20)
    assert comparison["verdict"] in called.stdout
    assert comparison["verdict"].startswith("Accuracy rose by 100.0 points")


def test_results_beside(solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    common = (solved, "--data", digits_folder, "--task", "sum", "--out")
    assert r1vlm_eval(*common, tmp_path / "supervised").returncode == 0
    beside = tmp_path / "supervised" / "results.json"
    called = r1vlm_eval(*common, tmp_path / "out", "--baseline", solved, "--beside", beside)
    assert called.returncode == 0, called.stderr
    [row] = read(tmp_path / "out" / "comparison.json")["beside"]
    assert (row["name"], row["accuracy"], row["n"], row["other_questions"]) == ("supervised", 1.0, 20, False)
    assert "supervised" in called.stdout


def test_hostile_completions_are_scored(
    tmp_path: Path, questions: list[dict[str, Any]], digits_folder: Path, r1vlm_eval: Call
) -> None:
    texts = ["", "\ud800", "\x00", "<think>" * 5000, "<answer>" + "9" * 9999, "\u2028\u2029\r\n", "{{ 1/0 }}"]
    messages = {q["id"]: texts[i % len(texts)] for i, q in enumerate(questions)}
    path = write_lines(tmp_path / "c.jsonl", messages)
    called = r1vlm_eval(path, "--data", digits_folder, "--out", tmp_path / "out", "--report")
    assert called.returncode == 0, called.stderr
    assert read(tmp_path / "out" / "results.json")["accuracy"] == 0.0
    written = [json.loads(line) for line in (tmp_path / "out" / "completions.jsonl").read_text().splitlines()]
    assert {line["id"]: line["completion"] for line in written} == messages


def test_limit_takes_the_first_questions(
    tmp_path: Path, questions: list[dict[str, Any]], digits_folder: Path, r1vlm_eval: Call
) -> None:
    few = write_lines(tmp_path / "few.jsonl", solutions(questions[:5]))
    out = tmp_path / "out"
    assert r1vlm_eval(few, "--data", digits_folder, "--out", out, "--limit", 5).returncode == 0
    assert read(out / "results.json")["n"] == 5
    refused = r1vlm_eval(few, "--data", digits_folder, "--out", out)
    assert refused.returncode == 2
    assert "5 of 40 questions, 35 missing" in refused.stderr


def refused(called: Any, message: str) -> None:
    """One sentence on stderr, exit code 2, no traceback."""
    assert called.returncode == 2
    assert called.stderr.count("\n") == 1, called.stderr
    assert called.stderr.startswith("r1vlm-eval: ")
    assert message in called.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "summ"], "there is no task 'summ': did you mean 'sum'?"),
        (["--data", "/no/such"], "there is no dataset /no/such"),
        (["--data", "/etc"], "/etc is not a dataset folder"),
        (["--data", "{solved}"], "is not a dataset folder"),
        (["--split", "exam"], "'exam' is not one of 'train', 'validation', 'test'"),
        (["--limit", "0"], "invalid value for '--limit': it should be greater than or equal to 1"),
        (["--limit", "many"], "invalid value for '--limit': it should be a valid integer"),
        (["--batch-size", "-1"], "'--batch-size': it should be greater than or equal to 1"),
        (["--max-new-tokens", "0"], "'--max-new-tokens': it should be greater than or equal to 1"),
        (["--out", "{solved}"], "is a file, and a folder is wanted there"),
        (["--out", "{solved}/below"], "is a file, and a folder is wanted there"),
        (["--out", "/proc/nowhere"], "can't write to /proc"),
        (["--beside", "/no/such.json"], "there is no result file /no/such.json"),
        (["--beside", "{solved}"], "is damaged (it is no JSON)"),
        (["--metrics", "/no/such.jsonl"], "there is no metrics file /no/such.jsonl"),
        (["--baseline", "/no/such"], "there is no /no/such: name a checkpoint folder or a .jsonl file"),
        (["--temperature", "11"], "'--temperature': it should be less than or equal to 10"),
        (["--samples", "2", "--temperature", "0"], "raise --temperature"),
        (["--lim", "3"], "no such option: --lim"),
        (["--repo", "a/b"], "--repo says how to publish: add --push-card"),
        (["--unknown"], "no such option: --unknown"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, solved: Path, digits_folder: Path, r1vlm_eval: Call
) -> None:
    out = solved.parent / "out"
    filled = [argument.format(solved=solved) for argument in arguments]
    refused(r1vlm_eval(solved, "--data", digits_folder, "--out", out, *filled), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint folder: it has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights (*.safetensors)"),
        (lambda folder: (folder / "processor_config.json").unlink(), "has no processor (processor_config.json)"),
        (
            lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"),
            "is a LoRA adapter of None, which is gone",
        ),
        (lambda folder: (folder / "r1vlm.json").unlink(), "does not say which dataset it belongs to"),
        (lambda folder: (folder / "r1vlm.json").write_text("{"), "r1vlm.json is damaged"),
        (lambda folder: (folder / "r1vlm.json").write_text("[]"), "r1vlm.json is damaged (it holds no object)"),
        (lambda folder: change_record(folder, shown=3), "r1vlm.json is damaged ('shown'"),
        (lambda folder: change_record(folder, dataset="/gone"), "/gone, is gone: name one with --data"),
        (lambda folder: change_record(folder, beside=[{}]), "holds no result"),
    ],
)
def test_checkpoints_that_are_none(spoil: Any, message: str, recorded: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    spoil(recorded)
    refused(r1vlm_eval(recorded, "--out", tmp_path / "out"), message)


def test_other_things_that_are_no_checkpoint(digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    refused(r1vlm_eval(digits_folder), "is not a checkpoint folder: it has no config.json and no weights")
    refused(r1vlm_eval("Qwen/Qwen2.5-VL-3B-Instruct"), "no model of that name has been downloaded")
    refused(r1vlm_eval(digits_folder / "manifest.json"), "manifest.json holds no result")
    refused(r1vlm_eval(digits_folder / "README.md"), "neither a checkpoint folder nor a .jsonl file")
    refused(r1vlm_eval(), "missing argument 'CHECKPOINT'")


def test_input_is_never_overwritten(solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    kept = solved.rename(tmp_path / "completions.jsonl")
    before = kept.read_bytes()
    refused(r1vlm_eval(kept, "--data", digits_folder, "--out", tmp_path), "would be overwritten")
    assert kept.read_bytes() == before


def test_result_files_are_compared_without_a_model(
    solved: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    for task in ("sum", "list"):
        assert r1vlm_eval(solved, "--data", digits_folder, "--task", task, "--out", tmp_path / task).returncode == 0
    one, other = (tmp_path / task / "results.json" for task in ("sum", "list"))
    called = r1vlm_eval(one, one, other)
    assert called.returncode == 0
    assert called.stdout.count("100.0%") == 3
    assert called.stdout.count(" *") == 1  # it answers other questions
    refused(r1vlm_eval(one, solved), "only result files (.json) are compared by name alone")
    refused(r1vlm_eval(tmp_path / "none.json"), "there is no result file")


def test_the_best_checkpoint_is_chosen_on_validation(
    recorded: Path, tmp_path: Path, r1vlm_eval: Call, digits_folder: Path
) -> None:
    from safetensors.torch import load_file, save_file

    later = shutil.copytree(recorded, recorded.parent / "checkpoint-12")
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(later / "model.safetensors").items()}
    save_file(weights, later / "model.safetensors", {"format": "pt"})
    words = (recorded.parent, "--curve", "--limit", 4, "--max-new-tokens", 3, "--out", tmp_path / "out")
    refused(r1vlm_eval(*words, "--baseline", tmp_path / "none"), "there is no")
    assert not (tmp_path / "out" / "curve.json").exists()  # it is found before all checkpoints have answered
    called = r1vlm_eval(*words)
    assert called.returncode == 0, called.stderr
    curve = read(tmp_path / "out" / "curve.json")
    assert [row["step"] for row in curve["checkpoints"]] == [3, 12]
    assert curve["split"] == "validation"
    chosen = read(tmp_path / "out" / "results.json")
    assert chosen["model"].endswith(f"checkpoint-{curve['best']}")
    assert chosen["split"] == "test"
    assert f"chosen on validation: checkpoint-{curve['best']}" in called.stdout
    refused(r1vlm_eval(digits_folder, "--curve", "--out", tmp_path / "o"), "holds no checkpoints")


def test_a_lora_checkpoint_answers_as_the_merged_one(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_pretrained(random_checkpoint, dtype=torch.float32)
    adapted = get_peft_model(whole, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    for name in ("adapter", "merged"):
        shutil.copytree(random_checkpoint, tmp_path / name)
        for weights in ("model.safetensors", "config.json"):
            (tmp_path / name / weights).unlink()
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    said = {}
    for name, folder in {"base": random_checkpoint, **{n: tmp_path / n for n in ("adapter", "merged")}}.items():
        words = ("--data", digits_folder, "--limit", 6, "--max-new-tokens", 6, "--out", tmp_path / f"out-{name}")
        called = r1vlm_eval(folder, *words)
        assert called.returncode == 0, called.stderr
        said[name] = (tmp_path / f"out-{name}" / "completions.jsonl").read_text()
    assert said["adapter"] == said["merged"] != said["base"]

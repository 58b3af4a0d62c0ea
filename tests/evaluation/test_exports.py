"""What other tools read: one table of several runs, and sample logs in the shape of lm-evaluation-harness's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from datagen.dataset.reader import open_dataset
from datagen.registry import DATASETS, TASKS
from tests.evaluation.conftest import Call, read, solutions, write_lines, write_traces

# The keys that lm-evaluation-harness's own logs have, beside one for each metric.
KEYS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
KEYS |= {"doc_hash", "prompt_hash", "target_hash"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_several_runs_are_one_table(small_datasets: dict[str, Path], tmp_path: Path, r1vlm_eval: Call) -> None:
    from datasets import load_dataset

    for name, folder in small_datasets.items():
        questions = open_dataset(folder).questions("train").remove_columns("image").to_list()
        right = write_traces(tmp_path / f"{name}.jsonl", questions)
        wrong = write_lines(tmp_path / f"{name}-wrong.jsonl", {question["id"]: "" for question in questions})
        words = (right, "--baseline", wrong, "--data", folder, "--split", "train", "--out", tmp_path / "runs" / name)
        called = r1vlm_eval(*words)
        assert called.returncode == 0, called.stderr
    files = sorted(str(path) for path in tmp_path.glob("runs/*/rows.jsonl"))
    table = load_dataset("json", data_files=files, split="train")
    asked = {task.name: set(task.rewards) for spec in DATASETS.values() for task in spec.tasks}
    for side, mean in (("before", 0.0), ("after", 1.0)):
        for task, rewards in asked.items():
            rows = [row for row in table if (row["side"], row["task"]) == (side, task)]
            assert {row["reward"] for row in rows} == rewards
            assert all(row["mean"] == mean and row["low"] <= mean <= row["high"] and row["n"] for row in rows)
    assert not any(value is None or isinstance(value, dict | list) for row in table for value in row.values())


def test_rows_say_what_the_result_says(digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    questions = open_dataset(digits_folder).questions("test").remove_columns("image").to_list()
    messages = solutions(questions) | {question["id"]: "no" for question in questions[::3]}
    done = write_lines(tmp_path / "c.jsonl", messages)
    assert r1vlm_eval(done, "--data", digits_folder, "--out", tmp_path / "out").returncode == 0
    result, rows = read(tmp_path / "out" / "results.json"), lines(tmp_path / "out" / "rows.jsonl")
    said = {(row["task"], row["reward"]): row for row in rows}
    for part in result["slices"]["by_task"]:
        row = said[part["task"], "correctness"]
        assert (row["mean"], [row["low"], row["high"]]) == (part["accuracy"], part["accuracy_ci95"])
        assert {name: said[part["task"], name]["mean"] for name in part["rewards"]} == part["rewards"]
        assert row["reward_hash"] == result["reward_hash"][part["task"]]


def test_sample_logs(small_datasets: dict[str, Path], tmp_path: Path, r1vlm_eval: Call) -> None:
    from datasets import load_dataset

    for name, folder in small_datasets.items():
        questions = open_dataset(folder).questions("train").remove_columns("image").to_list()
        messages = solutions(questions) | {questions[0]["id"]: "half a pair: \ud800"}
        done = write_lines(tmp_path / f"{name}.jsonl", messages)
        out = tmp_path / name
        called = r1vlm_eval(done, "--data", folder, "--split", "train", "--log-samples", "--out", out)
        assert called.returncode == 0, called.stderr
        result = read(out / "results.json")
        for part in result["slices"]["by_task"]:
            path = out / f"samples_{part['task']}.jsonl"
            logged = lines(path)
            assert [line["doc_id"] for line in logged] == list(range(part["n"]))
            assert len(load_dataset("json", data_files=str(path), split="train")) == part["n"]
            for line in logged:
                assert line.keys() == KEYS | set(line["metrics"])
                assert set(line["metrics"]) == set(TASKS[part["task"]].rewards)
                assert line["target"] == line["doc"]["answer"]
                assert "image" not in line["doc"]
                [[message]] = line["resps"]
                assert message == messages[line["doc"]["id"]].replace("\ud800", "\ufffd")
                assert line["filtered_resps"] == ["[invalid]" if message.startswith("half") else line["target"]]
                prompt = line["arguments"]["gen_args_0"]["arg_0"]
                assert json.loads(prompt) == line["doc"]["prompt"]
                assert line["prompt_hash"] == hashlib.sha256(prompt.encode()).hexdigest()
            means = {name: sum(line[name] for line in logged) / part["n"] for name in part["rewards"]}
            assert means == pytest.approx(part["rewards"])


def test_sample_logs_of_several_samples(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    words = (random_checkpoint, "--data", digits_folder, "--task", "sum", "--limit", 3, "--max-new-tokens", 4)
    called = r1vlm_eval(*words, "--samples", 2, "--log-samples", "--out", tmp_path)
    assert called.returncode == 0, called.stderr
    logged = lines(tmp_path / "samples_sum.jsonl")
    assert [line["doc_id"] for line in logged] == [0, 1, 2]
    said = [line["completion"] for line in lines(tmp_path / "completions.jsonl")]
    assert [message for line in logged for message in line["resps"][0]] == said
    assert logged[0]["arguments"]["gen_args_0"]["arg_1"] == {
        "max_gen_toks": 4,
        "temperature": 1.0,
        "until": [],
        "do_sample": True,
    }

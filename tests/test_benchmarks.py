"""The GPU's benchmark on the CPU, with a tiny model: it runs, goes on where it was, and counts what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import operations
from benchmarks.sampling import curve, reached
from benchmarks.steps import ratios
from tests.processes import run
from training.launch.memory import built_in


def bench(folder: Path, *parts: str) -> tuple[dict[str, Any], str]:
    """The file and the table of a tiny run."""
    out = folder / "results.json"
    words = ["--tiny", "--out", out, "--work", folder / "work", "--parts", ",".join(parts)]
    done = run("benchmarks.gpu", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8")), done.stdout


@pytest.mark.slow
def test_steps_of_both_ways_are_measured_and_a_part_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    found, table = bench(tmp_path, "vllm", "full", "large-image")
    assert "vLLM is not installed" in found["parts"]["vllm"]["error"] or "ways" in found["parts"]["vllm"]
    full = found["parts"]["full"]
    assert set(full["ways"]) == {"plain", "ours"}
    plain, ours = (full["ways"][way]["steps"] for way in ("plain", "ours"))
    tokens = ("completion_tokens", "prompt_tokens", "image_tokens", "operations")
    assert [[row[key] for key in tokens] for row in ours] == [[row[key] for key in tokens] for row in plain]
    for row in (*ours, *plain):
        assert 0 < row["generation"] < row["seconds"]
        assert row["loss"] == pytest.approx(row["seconds"] - row["generation"])
        assert 0 < row["completion_tokens"] <= 8 * 96
        assert row["image_tokens"] > 0
    images = [
        {row["image_tokens"] for row in found["parts"][name]["ways"]["ours"]["steps"]}
        for name in ("full", "large-image")
    ]
    assert min(images[1]) > 10 * max(images[0])
    assert full["ratio"]["low"] <= full["ratio"]["median"] <= full["ratio"]["high"]
    assert "| full | ours |" in table

    (tmp_path / "work").rename(tmp_path / "moved")
    again, _ = bench(tmp_path, "full")  # nothing is run again: there is nothing to run it with
    assert again["parts"] == found["parts"]


@pytest.mark.slow
def test_the_pipeline_of_the_small_model_has_its_before_and_after(tmp_path: Path) -> None:
    found, table = bench(tmp_path, "digits")
    digits = found["parts"]["digits"]
    assert set(digits["seconds"]) == {"build", "train", "eval"}
    assert digits["n"] == 8
    assert digits["difference"] == pytest.approx(digits["after"] - digits["before"])
    assert "- digits: " in table


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=5))
def test_the_work_of_a_step_is_what_its_matrices_have(lengths: list[tuple[int, int]]) -> None:
    shape = built_in()["Qwen/Qwen2.5-VL-3B-Instruct"]
    step = {"prompt": [a for a, _ in lengths], "completion": [b for _, b in lengths], "image": [0] * len(lengths)}
    tokens, written = sum(map(sum, lengths)), sum(b for _, b in lengths)
    language = shape.parameters - shape.vision_parameters - shape.embedding  # and norms and biases, which are few
    attention = sum(6 * 36 * 2048 * (a + b) ** 2 for a, b in lengths)
    assert operations(step, shape) == pytest.approx(
        6 * (language * tokens + 311_164_928 * written) + attention, rel=1e-3
    )
    seen = operations(step | {"image": [9] * len(lengths)}, shape) - operations(step, shape)
    assert seen == pytest.approx(6 * shape.vision_parameters * 36 * len(lengths))


def test_completions_until_the_target_are_those_up_to_the_step_that_reached_it(tmp_path: Path) -> None:
    steps = [1] * 4 + [2] * 8 + [3] * 4 + [4] * 4
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    scored = [{"step": step, "held_out/correctness": value} for step, value in ((1, 0.5), (3, 0.9), (4, 0.8))]
    rows = [{"step": 1, "reward": 0.3}, *scored]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curve(tmp_path) == [(1, 4, 0.5), (3, 16, 0.9), (4, 20, 0.8)]
    assert reached(curve(tmp_path)) == (3, 16, 0.9)
    assert reached(curve(tmp_path)[:1]) is None


def test_the_ratio_is_of_pairs() -> None:
    assert ratios([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == (2.0, 2.0, 2.0)
    middle, low, high = ratios([1.0, 1.1, 0.9, 1.0, 5.0], [1.0] * 5)
    assert (middle, low) == (1.0, 0.9)
    assert high > 1

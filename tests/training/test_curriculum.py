"""The order of questions that the trainer really asks, and groups whose completions all earned the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import UserError
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.registry import find_dataset_or_task
from tests.processes import invoke, refused
from training.config import StageConfig, parse_assignments, resolve_settings
from training.trainers import grpo
from training.trainers.curriculum import easiest_first
from training.trainers.zero_variance import zero_variance
from training.trl_config import make_trl_config

SMALL_STEPS = ("per_device_train_batch_size=8", "num_generations=4", "max_completion_length=40", "save_steps=4")


def run_of(data: Path, model: Path, out: Path, *sets: str) -> StageConfig:
    out.mkdir()
    settings = resolve_settings("small", "grpo", settings=parse_assignments([*SMALL_STEPS, "max_steps=4", *sets]))
    return StageConfig("grpo", str(model), str(data), ["list", "sum"], str(out), 0, settings, "0" * 64, {})


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_curriculum_asks_the_easiest_first_and_ends_with_the_hardest(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    grpo.train(run_of(digits_folder, random_checkpoint, tmp_path / "run", "curriculum=difficulty"))
    level = {row["id"]: row["num_digits"] for row in open_dataset(digits_folder).questions("train")}
    lines = (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    asked = [level[json.loads(line)["id"]] for line in lines]
    assert len(asked) == 4 * 8
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (1, 3)


@pytest.mark.slow
def test_a_run_resumed_in_its_second_epoch_asks_what_one_that_was_not_stopped_asks(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    build(DatasetConfig(dataset="digits", size=20, seed=3), data, workers=1)
    run = run_of(data, random_checkpoint, out, "max_steps=13", "save_steps=11", "num_generations=8")
    run = replace(run, tasks=["sum"], settings=run.settings | {"per_device_train_batch_size": 16})
    grpo.train(run)

    def asked() -> list[str]:
        return [json.loads(line)["id"] for line in (out / "completions.jsonl").read_text().splitlines()][::8]

    whole = asked()
    assert len(whole) == 2 * 13
    assert sorted(whole[:16]) == sorted(set(whole))  # the first epoch has all 16 questions
    assert whole[16:] != whole[:10]
    shutil.rmtree(out / "checkpoint-13")
    grpo.train(run)
    assert asked() == whole


@given(steps=st.integers(1, 60), levels=st.lists(st.integers(1, 5), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_as_many_questions_as_the_run_asks_from_all_levels(steps: int, levels: list[int], seed: int) -> None:
    questions = Dataset.from_dict({"id": list(range(len(levels))), "num_digits": levels})
    run = StageConfig("grpo", "", "", ["sum"], "unused", seed, {"max_steps": steps, "bf16": False}, "", {})
    config = make_trl_config(run)
    chosen = easiest_first(questions, find_dataset_or_task("sum"), config)
    assert config.shuffle_dataset is False
    assert len(chosen) == min(len(levels), steps)  # TRL's defaults: one question of eight completions a step
    assert chosen["num_digits"] == sorted(chosen["num_digits"])
    assert len(set(chosen["id"])) == len(chosen)
    assert chosen["id"] == easiest_first(questions, find_dataset_or_task("sum"), make_trl_config(run))["id"]


def test_a_second_run_asks_no_question_that_the_cold_start_before_the_first_showed_a_trace_of(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    first = run_of(digits_folder, shutil.copytree(random_checkpoint, tmp_path / "cold"), tmp_path / "first")
    built = open_dataset(digits_folder)
    rows = built.questions("train", first.tasks)
    first = replace(first, dataset_fingerprint=built.fingerprint)
    record = {"traces": len(rows) - 2, "dataset_fingerprint": first.dataset_fingerprint, "tasks": first.tasks}
    (tmp_path / "cold" / "r1vlm.json").write_text(json.dumps(record))
    one_step = {**first.settings, "max_steps": 1, "save_steps": 1}
    checkpoint = grpo.train(replace(first, settings=one_step))
    second = replace(first, model=str(checkpoint), out=str(tmp_path / "second"), settings=one_step)
    grpo.train(second)
    for run in (first, second):
        lines = (Path(run.out) / "completions.jsonl").read_text().splitlines()
        assert {json.loads(line)["id"] for line in lines} == set(rows["id"][-2:])


@pytest.mark.parametrize("epochs", [0.25, 0.5, 1, 2])
def test_a_part_of_an_epoch_ends_with_the_hardest(epochs: float) -> None:
    questions = Dataset.from_dict({"id": list(range(40)), "num_digits": [1 + i // 10 for i in range(40)]})
    settings = {"num_train_epochs": epochs, "max_steps": -1, "bf16": False}
    run = StageConfig("grpo", "", "", ["sum"], "unused", 0, settings, "", {})
    config = make_trl_config(run)
    chosen = easiest_first(questions, find_dataset_or_task("sum"), config)
    assert len(chosen) * config.num_train_epochs == 40 * epochs
    asked = chosen["num_digits"][: int(40 * epochs)]  # a question a step
    assert asked == sorted(asked)
    assert (asked[0], asked[-1]) == (1, 4)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 1.1]), min_size=3, max_size=3), min_size=1))
def test_a_group_has_variance_where_two_of_it_differ(groups: list[list[float]]) -> None:
    same = zero_variance([reward for group in groups for reward in group], 3)
    assert same == [len(set(group)) == 1 for group in groups for _ in group]


def test_a_card_says_where_every_question_had_a_trace() -> None:
    said = {traces: grpo.shown_after(6, before="A base.", questions=20, traces=traces) for traces in (0, 12, 20)}
    assert said[0] == said[12] == "A base. 6 steps of GRPO on questions without a trace."
    assert said[20] == "A base. 6 steps of GRPO on the questions that it was shown traces of."


class Graded(grpo.R1GRPOTrainer):
    """The trainer with fixed completions: of two groups of four, one that varies and one that does not."""

    outputs: list[dict[str, Any]]

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        right = "I see 3.</think>\n<answer>[3]</answer>"
        tokens = self.processing_class.tokenizer([right, "3", "3", "3", "333", "333", "333", "333"])["input_ids"]
        return [[*ids, self.processing_class.tokenizer.eos_token_id] for ids in tokens], None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.outputs.append(super()._generate_and_score_completions(inputs))
        return self.outputs[-1]


@pytest.mark.parametrize("drop", [False, True])
def test_groups_without_variance_are_counted_and_dropped_where_asked(
    drop: bool, digits_folder: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graded, "outputs", [], raising=False)
    monkeypatch.setattr(grpo, "R1GRPOTrainer", Graded)
    sets = (f"drop_zero_variance={drop}", "loss_type=dapo", "max_steps=1", "reward_weights={format: 1}")
    grpo.train(run_of(digits_folder, random_checkpoint, tmp_path / "run", *sets))
    (row,) = metrics(tmp_path / "run")
    assert row["frac_groups_zero_variance"] == 0.5
    assert row["frac_reward_zero_std"] == 0.0  # TRL 1.16's, with rewards scaled by the batch: of no use here
    (output,) = Graded.outputs
    lengths = output["completion_mask"].sum(dim=1)
    assert output["num_items_in_batch"] == (lengths[:4] if drop else lengths).sum()
    assert torch.all(output["advantages"][4:].abs() < 1e-3)
    assert torch.all(output["advantages"][:4] != 0)


def test_dropping_groups_where_it_changes_nothing_is_refused(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="changes nothing with loss_type=dr_grpo"):
        grpo.train(run_of(digits_folder, random_checkpoint, tmp_path / "a", "drop_zero_variance=true"))
    sets = ("drop_zero_variance=true", "loss_type=dapo", "beta=0.1")
    with pytest.raises(UserError, match="set beta=0"):
        grpo.train(run_of(digits_folder, random_checkpoint, tmp_path / "b", *sets))
    words = ["digits", "--data", digits_folder, "--model", random_checkpoint, "--out", tmp_path / "c"]
    assert "no setting 'do_resise'" in refused(
        invoke("training.cli", *words, "--set", "image_processor={do_resise: false}")
    )

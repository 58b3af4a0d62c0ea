"""Held-out scores while a model trains: they are what r1vlm-eval finds, and the best checkpoint outlives the others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.processes import invoke

SMALL = Path(__file__).parents[2] / "training" / "builtin_models" / "base"


@pytest.mark.slow
def test_the_answers_are_those_that_r1vlm_eval_gets(digits_folder: Path, tmp_path: Path) -> None:
    from trl import GRPOConfig

    from datagen.dataset.reader import open_dataset
    from training.callbacks.validation import eval_mode, play
    from training.models import load_model
    from training.rollout.parity import banned_tokens
    from training.trainers.grpo import R1GRPOTrainer, ban_tokens
    from training.trainers.rewards import RewardFunctions

    questions = open_dataset(digits_folder).questions("validation", ["list", "sum"])
    model, processor = load_model(str(SMALL))
    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=32,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    config.generation_kwargs = ban_tokens(banned_tokens(processor), config)
    judge = RewardFunctions(["list", "sum"])
    trainer = R1GRPOTrainer(
        model=model, processing_class=processor, args=config, train_dataset=questions, reward_funcs=judge.functions()
    )
    model.train()
    with eval_mode(model):
        episodes = play(trainer, list(questions))
    assert model.training
    words = [SMALL, "--data", digits_folder, "--split", "validation", "--engine", "transformers"]
    done = invoke("evaluation.cli", *words, "--max-new-tokens", "32", "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "eval" / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {line["id"]: line["completion"] for line in map(json.loads, lines)}
    assert {row["id"]: episode.final for row, episode in zip(questions, episodes, strict=True)} == expected
    assert len(set(expected.values())) > 5


class Scripted:
    """A trainer for which only the scores matter."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.log_completions = True
        self.tables = 0
        self.known = {"an image": 1}
        self.image_features = SimpleNamespace(forget=self.known.clear)
        self.model = SimpleNamespace(training=True, eval=lambda: None, train=lambda mode: None)

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)
        self.tables += self.log_completions  # as TRL does at each log


def test_the_earlier_of_equally_good_checkpoints_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    from training.callbacks.validation import ValidationCallback

    watcher = ValidationCallback(Dataset.from_dict({"id": ["a"]}), {"format": 0.1, "correctness": 1.0})
    watcher.trainer = Scripted()
    state = SimpleNamespace(
        global_step=0,
        max_steps=7,
        eval_steps=2,
        best_metric=None,
        best_global_step=None,
        is_world_process_zero=True,
    )
    args = SimpleNamespace(output_dir=str(tmp_path))
    scores = {2: 0.2, 4: 0.5, 6: 0.5, 7: 0.4}
    linked = {}
    for step in range(1, 8):
        state.global_step, control = step, SimpleNamespace(should_save=False, should_log=True)
        monkeypatch.setattr(watcher, "mean_rewards", lambda step=step: {"format": 1.0, "correctness": scores[step]})
        watcher.on_step_end(args, state, control)
        assert control.should_save == (step in scores)
        if control.should_save:
            watcher.on_save(args, state, control)
            linked[step] = (tmp_path / "best").readlink().name
    assert linked == {2: "checkpoint-2", 4: "checkpoint-4", 6: "checkpoint-4", 7: "checkpoint-4"}
    assert [row["held_out/reward"] for row in watcher.trainer.logged] == pytest.approx([0.3, 0.6, 0.6, 0.5])
    assert watcher.trainer.known == {}
    assert (watcher.trainer.tables, watcher.trainer.log_completions) == (0, True)  # each step logs its own table


@pytest.mark.slow
def test_a_run_keeps_its_best_checkpoint_beside_the_last(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words: list[Any] = ["digits", "--data", digits_folder, "--model", random_checkpoint, "--out", out, "--steps", "3"]
    words += ["--eval-steps", "1", "--set", "save_total_limit=1", "--set", "per_device_train_batch_size=8"]
    done = invoke("training.cli", *words, "--no-report", "--num-generations", "4", "--set", "max_completion_length=32")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scored = [row["step"] for row in rows if "held_out/correctness" in row]
    assert scored == [1, 2, 3]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3]  # each step has its own figures too
    assert f"{out / 'best'}: the best on held-out questions, checkpoint-1" in done.stdout
    assert (out / "best").readlink().name == "checkpoint-1"  # nothing is right at random: all are equally good
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-3"]
    assert (out / "best" / "model.safetensors").is_file()

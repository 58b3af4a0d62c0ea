"""Groups without variance are replaced by other questions; a pool follows solve rates; a resumed run asks the same."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import UserError
from tests.training.test_curriculum import metrics, run_of
from training.trainers import grpo
from training.trainers.checkpoints import QUESTIONS
from training.trainers.curriculum import LEAST, UNKNOWN, QuestionPool, QuestionSource, ShuffledQuestions
from training.trainers.dynamic_sampling import MOST
from training.trainers.zero_variance import zero_variance
from training.trl_config import make_trl_config

RIGHT, WRONG = "I see 3.</think>\n<answer>[3]</answer>", "3"
GROUPS, SIZE = 4, 4  # of a step
STEP = ("per_device_train_batch_size=16", "reward_weights={format: 1}", "dynamic_sampling=true")


@given(count=st.integers(1, 30), draws=st.lists(st.integers(1, 12), min_size=1, max_size=12), seed=st.integers(0, 5))
def test_every_question_is_asked_once_a_pass_however_many_are_drawn_at_a_time(
    count: int, draws: list[int], seed: int
) -> None:
    source = ShuffledQuestions(count, seed)
    asked = [question for size in draws for question in source.draw(size)]
    for start in range(0, len(asked) - count + 1, count):
        assert sorted(asked[start : start + count]) == list(range(count))
    assert ShuffledQuestions(count, seed).draw(len(asked)) == asked


rounds = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=5), min_size=2, max_size=8)


@given(rounds=rounds, at=st.integers(0, 1), pool=st.booleans())
def test_a_source_goes_on_from_what_a_checkpoint_keeps(rounds: list[list[float]], at: int, pool: bool) -> None:
    def make() -> QuestionSource:
        return QuestionPool([("sum", i % 3) for i in range(12)], 3) if pool else ShuffledQuestions(12, 3)

    def play(source: QuestionSource, rates: list[float]) -> list[int]:
        drawn = source.draw(len(rates))
        source.record(drawn, rates)
        return drawn

    source, resumed = make(), make()
    drawn = []
    for number, rates in enumerate(rounds):
        drawn.append(play(source, rates))
        if number == at:
            resumed.restore(json.loads(json.dumps(source.state())))
    assert [play(resumed, rates) for rates in rounds[at + 1 :]] == drawn[at + 1 :]
    assert resumed.state() == source.state()


def test_the_pool_asks_what_is_neither_solved_nor_hopeless() -> None:
    pool = QuestionPool(["one kind"] * 6, seed=0)
    pool.record([0, 1, 2, 3], [0.0, 0.5, 0.875, 1.0])
    moved = UNKNOWN
    for weight in (LEAST, 0.25, 0.875 * 0.125, LEAST):
        moved += (weight - moved) / 16
    assert pool.weights() == pytest.approx([LEAST, 0.25, 0.109375, LEAST, moved, moved])
    drawn = Counter(pool.draw(1)[0] for _ in range(4000))
    share = pool.weights() / pool.weights().sum()
    assert [drawn[i] / 4000 for i in range(6)] == pytest.approx(share, abs=0.03)
    assert sorted(pool.draw(6)) == list(range(6))


def test_questions_that_were_not_asked_follow_their_kind() -> None:
    pool = QuestionPool(["easy", "hard"] * 50, seed=0)
    pool.record(range(40), [1.0, 0.5] * 20)
    easy, hard = pool.weights()[40:42]
    assert LEAST < easy < 0.1
    assert hard == pytest.approx(0.25)
    np.testing.assert_array_equal(pool.weights()[40:], np.tile([easy, hard], 30))


class Scripted(grpo.R1GRPOTrainer):
    """The trainer with completions of a script: a letter a group, `v` where they vary and `s` where not."""

    script = ""
    asked: list[int]
    batches: list[dict[str, Any]]

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        done = self.sampled // SIZE
        groups = (self.script + "v" * 99)[done : done + len(prompt_ids) // SIZE]
        texts = [text for one in groups for text in [RIGHT if one == "v" else WRONG, *[WRONG] * (SIZE - 1)]]
        tokens = self.processing_class.tokenizer(texts)["input_ids"]
        return [[*ids, self.processing_class.tokenizer.eos_token_id] for ids in tokens], None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.batches.append(super()._generate_and_score_completions(inputs))
        return self.batches[-1]


@pytest.fixture
def scripted(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Runs with a script; returns the run folder. `Scripted.batches` has what was trained on."""
    monkeypatch.setattr(grpo, "R1GRPOTrainer", Scripted)

    def run(script: str, *sets: str) -> Path:
        monkeypatch.setattr(Scripted, "script", script)
        monkeypatch.setattr(Scripted, "batches", [], raising=False)
        grpo.train(run_of(digits_folder, random_checkpoint, tmp_path / "run", *STEP, "max_steps=1", *sets))
        return tmp_path / "run"

    return run


def sampled(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("more", ["curriculum=none", "curriculum=pool", "shared_prefix=false"])
def test_groups_without_variance_are_replaced_until_the_batch_is_full(more: str, scripted: Callable[..., Path]) -> None:
    out = scripted("vssvsv", more)  # 4 groups, then 2, then 1
    (row,) = metrics(out)
    lines = sampled(out)
    assert len(lines) == 7 * SIZE
    assert len({line["id"] for line in lines}) == 7  # fresh questions
    assert row["sampling/completions"] == 7 * SIZE
    assert row["sampling/frac_groups_replaced"] == pytest.approx(3 / 7)
    assert row["frac_groups_zero_variance"] == 0.0
    assert row["rewards/format/mean"] == pytest.approx(4 / (7 * SIZE))  # of all that were sampled
    (batch,) = Scripted.batches
    assert len(batch["advantages"]) == GROUPS * SIZE
    assert (batch["advantages"].view(GROUPS, SIZE)[:, 0] > 1).all()


@pytest.mark.slow
def test_at_the_limit_the_batch_is_filled_with_groups_without_variance(scripted: Callable[..., Path]) -> None:
    out = scripted("s" * 7 + "v" + "s" * 99)
    (row,) = metrics(out)
    assert len(sampled(out)) == MOST * GROUPS * SIZE == row["sampling/completions"]
    assert row["frac_groups_zero_variance"] == 0.75
    assert row["sampling/frac_groups_replaced"] == pytest.approx(1 - 1 / MOST)


@pytest.mark.slow
def test_a_pool_alone_replaces_nothing(scripted: Callable[..., Path]) -> None:
    out = scripted("ssss", "dynamic_sampling=false", "curriculum=pool")
    (row,) = metrics(out)
    assert row["sampling/completions"] == GROUPS * SIZE
    assert row["frac_groups_zero_variance"] == 1.0
    assert "sampling/frac_groups_replaced" not in row
    state = json.loads((out / "checkpoint-1" / QUESTIONS).read_text())
    assert list(state["source"]["solve_rates"].values()) == [0.0] * GROUPS  # solved is what is correct, not well-formed


@pytest.mark.slow
def test_a_run_without_either_draws_as_trl_does(scripted: Callable[..., Path]) -> None:
    out = scripted("vsss", "dynamic_sampling=false")
    assert not (out / "checkpoint-1" / QUESTIONS).exists()
    assert not any(name.startswith("sampling/") for name in metrics(out)[0])


class Rollouts(Scripted):
    """The trainer with the rollouts of a vLLM, which come with log-probabilities: what TRL makes of a batch is kept."""

    def train(self, **_: Any) -> None:
        self.use_vllm, self.vllm_importance_sampling_correction, self.vllm_mode = True, True, "colocate"
        self._last_loaded_step = 0
        self.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
        self.rollout_func = Rollouts.roll_out
        self.model.train()
        questions = ShuffledQuestions(len(self.train_dataset), self.args.seed).draw(GROUPS)
        ours = self._generate_and_score_completions([])
        source, self.source, self.sampled = self.source, None, 0
        assert source is not None
        trls = self._generate_and_score_completions([row for row in self.rows(questions) for _ in range(SIZE)])
        for name, value in trls.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)
            else:
                assert ours[name] == value
        assert ours["sampling_per_token_logps"].any()
        assert ours.keys() == trls.keys()
        raise UserError("this is all")

    @staticmethod
    def roll_out(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        encoded = trainer.processing_class.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        completions, _ = trainer._generate_single_turn(encoded["input_ids"])
        logprobs = [[-0.01 * (i + k) for k in range(len(ids))] for i, ids in enumerate(completions)]
        return {"prompt_ids": encoded["input_ids"], "completion_ids": completions, "logprobs": logprobs}


@pytest.mark.slow
def test_a_batch_that_is_full_at_once_is_the_one_that_trl_makes_of_vllms_rollouts(
    scripted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "R1GRPOTrainer", Rollouts)
    with pytest.raises(UserError, match="this is all"):
        scripted("vvvv")


@pytest.mark.slow
@pytest.mark.parametrize("more", ["curriculum=none", "curriculum=pool"])
def test_a_run_that_was_killed_goes_on_with_the_same_questions_and_steps(
    more: str, digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = run_of(digits_folder, random_checkpoint, out, *STEP, "save_steps=2", "temperature=1.5", more)
    grpo.train(run)
    rows, lines, state = metrics(out), sampled(out), json.loads((out / "checkpoint-4" / QUESTIONS).read_text())
    assert rows[-1]["sampling/completions"] == len(lines) == state["sampled"]
    assert len(lines) > 4 * GROUPS * SIZE
    shutil.rmtree(out / "checkpoint-4")
    grpo.train(run)
    assert sampled(out) == lines
    assert json.loads((out / "checkpoint-4" / QUESTIONS).read_text()) == state
    for again, row in zip(metrics(out), rows, strict=True):
        for name in ("loss", "grad_norm", "reward", "sampling/completions", "sampling/frac_groups_replaced"):
            assert again[name] == row[name], name
    shutil.rmtree(out / "checkpoint-4")
    (out / "checkpoint-2" / QUESTIONS).unlink()
    with pytest.raises(UserError, match="go on from the one before"):
        grpo.train(run)


def test_what_does_not_go_together_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run = run_of(tmp_path, tmp_path, tmp_path / "a", "dynamic_sampling=true", "curriculum=difficulty")
    with pytest.raises(UserError, match="use curriculum=pool"):
        make_trl_config(run)


@pytest.mark.parametrize("name", ["dynamic_sampling", "drop_zero_variance"])
def test_equal_sums_are_no_lack_of_variance_where_each_reward_is_normalized(name: str, tmp_path: Path) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])  # of a group
    assert zero_variance(rewards.sum(dim=1).tolist(), 4) == [True] * 4
    assert ((rewards - rewards.mean(dim=0)) / rewards.std(dim=0)).sum(dim=1).std() > 0.1  # as TRL weighs them
    run = run_of(tmp_path, tmp_path, tmp_path / "a", f"{name}=true", "multi_objective_aggregation=normalize_then_sum")
    with pytest.raises(UserError, match=f"set {name}=false"):
        make_trl_config(run)

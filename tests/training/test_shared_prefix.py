"""Prompts computed once a group give the numbers of TRL's own path: losses, gradients, completions and whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from trl import GRPOConfig
from trl.data_utils import prepare_multimodal_messages
from trl.trainer import grpo_trainer

from benchmarks.steps import draw_for_all
from datagen.dataset.reader import open_dataset
from tests.processes import invoke
from tests.training.conftest import TINY
from training.models import load_model
from training.rollout.parity import changed_weights, loss_inputs
from training.trainers import grpo
from training.trainers.shared_prefix import packing, trial
from training.trainers.shared_prefix import trainer as module
from training.trainers.shared_prefix.packing import ATTENTION
from training.trainers.shared_prefix.trainer import SharedPrefix, SharingError

pytestmark = pytest.mark.slow
FAMILIES = ("qwen2-vl-2b", "default", "qwen3-vl-2b", "smolvlm")  # by the recipes of their models
PROMPTS, GROUP = 3, 4


@pytest.fixture(scope="module")
def rows(digits_folder: Path) -> Any:
    return open_dataset(digits_folder).questions("train", ["list", "sum"])


def make_trainer(
    model: Path,
    rows: Any,
    out: Path,
    *,
    kind: type[SharedPrefix] = SharedPrefix,
    lora: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """A trainer that shares prompts, of which nothing has been trained yet."""
    network, processor = load_model(str(model))
    if processor.image_processor.to_dict().get("do_image_splitting"):  # into 17 tiles
        processor.image_processor.do_image_splitting = False
    usual = {"per_device_train_batch_size": PROMPTS * GROUP, "num_generations": GROUP, "max_completion_length": 12}
    config = GRPOConfig(
        output_dir=str(out),
        report_to=[],
        use_cpu=True,
        bf16=False,
        beta=settings.pop("beta", 0.0),
        gradient_checkpointing=settings.pop("gradient_checkpointing", False),
        **{**usual, **settings},
    )
    trainer = kind(
        model=network,
        processing_class=processor,
        args=config,
        train_dataset=rows,
        reward_funcs=lambda completions, **_: [float(len(one[0]["content"]) % 3) for one in completions],
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None,
    )
    trainer.share_prefixes()
    return trainer


def batch(
    trainer: Any, rows: Any, order: list[int] | None = None, images: tuple[int, ...] = (1,) * PROMPTS
) -> tuple[dict[str, Any], Tensor]:
    """Completions of random lengths and tokens, some masked out, and the prompt of each; in another order if given.

    `images` are how many each prompt shows.
    """
    tokens = torch.Generator().manual_seed(1)
    order = list(range(PROMPTS * GROUP)) if order is None else order
    prompts = [
        prepare_multimodal_messages(rows[i]["prompt"], images=[rows[i + j]["image"] for j in range(images[i])])
        for i in range(PROMPTS)
        for _ in range(GROUP)
    ]
    lengths = torch.randint(1, 13, (len(prompts),), generator=tokens).tolist()
    completions = [torch.randint(60, 200, (length,), generator=tokens).tolist() for length in lengths]
    inputs = loss_inputs(trainer, [prompts[i] for i in order], [completions[i] for i in order])
    width = inputs["logits_to_keep"]
    inputs["attention_mask"][1, -width:] = 0  # as a completion that was cut off
    return inputs, torch.tensor([i // GROUP for i in order])


@dataclass(frozen=True)
class Computed:
    """A loss and its gradients; log-probabilities and entropies (tokens,) where there are tokens."""

    loss: Tensor
    gradients: dict[str, Tensor]
    logps: Tensor
    entropies: Tensor


def gradients_of(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def compute(trainer: Any, inputs: dict[str, Any], group: Tensor | None) -> Computed:
    """The loss is a weighted mean of the log-probabilities."""
    trainer.shares_loss = group is not None
    with trainer.groups(group):
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(trainer.model, compute_entropy=True, **inputs)
    real = inputs["attention_mask"][:, -inputs["logits_to_keep"] :].bool()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(2))
    loss = (logps.float() * weights)[real].sum() / real.sum()
    gradients = gradients_of(trainer.model, loss)
    return Computed(loss.detach(), gradients, logps.detach()[real], entropies.detach()[real])


def check_equal(trainer: Any, inputs: dict[str, Any], group: Tensor) -> None:
    """Both paths give the same, and nothing is zero."""
    plain, shared = compute(trainer, inputs, None), compute(trainer, inputs, group)
    torch.testing.assert_close(shared.logps, plain.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropies, plain.entropies, rtol=1e-5, atol=1e-5)
    check_same_loss(shared.loss, shared.gradients, plain.loss, plain.gradients)


def check_same_loss(loss: Tensor, gradients: dict[str, Tensor], expected: Tensor, wanted: dict[str, Tensor]) -> None:
    """The loss within 1e-6, every gradient within 1e-5, and some of both are not 0."""
    assert expected.abs() > 1e-4
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    assert gradients.keys() == wanted.keys()
    assert any(value.abs().max() > 1e-4 for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("recipe", FAMILIES)
@pytest.mark.parametrize("images", [(1, 1, 1), (2, 2, 2), (2, 1, 3)])
def test_families(
    recipe: str, images: tuple[int, ...], family: Callable[[str], Path], rows: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(family(recipe), rows, tmp_path)
    inputs, group = batch(trainer, rows, images=images)
    check_equal(trainer, inputs, group)


def flash_on_a_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    *longest: int,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn`, which has no kernel for a CPU: SDPA, one segment after the other.

    PyTorch's own operator, on tensors without numbers, has to take the call as well.
    """
    sizes = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa}
    places = (one.detach().to("meta") for one in (query, key, value, query_ends, key_ends))
    assert varlen_attn(*places, *longest, **sizes).shape == query.shape
    assert window_size == (-1, 0)
    assert query.dtype == key.dtype == value.dtype
    assert query_ends.dtype == key_ends.dtype == torch.int32
    lengths = [ends.diff().tolist() for ends in (query_ends, key_ends)]
    assert all(max(found) <= stated for found, stated in zip(lengths, longest, strict=True))
    parts = []
    for q, k, v in zip(query.split(lengths[0]), key.split(lengths[1]), value.split(lengths[1]), strict=True):
        one = [states.transpose(0, 1)[None] for states in (q, k, v)]
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        answer = F.scaled_dot_product_attention(*one, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        parts.append(answer[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("recipe", FAMILIES)
def test_flash_attention_is_called_for_the_same_numbers(
    recipe: str, family: Callable[[str], Path], rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the layout that FlashAttention gets on a GPU; its kernel is replaced by one that a CPU has."""
    trainer = make_trainer(family(recipe), rows, tmp_path)
    inputs, group = batch(trainer, rows, [7, 0, 11, 4, 5, 1, 6])
    called = Mock(side_effect=flash_on_a_cpu)
    monkeypatch.setattr(packing, "varlen_attn", called)
    monkeypatch.setattr(packing, "flash_takes", lambda *_: True)
    check_equal(trainer, inputs, group)
    assert called.call_count == trainer.model.config.get_text_config().num_hidden_layers


LORA = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
MODES: dict[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "lora": {"lora": LORA},
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str, random_checkpoint: Path, rows: Any, tmp_path: Path) -> None:
    trainer = make_trainer(random_checkpoint, rows, tmp_path, **MODES[mode])
    if mode == "reentrant":
        trainer.model.enable_input_require_grads()
    trainer.model.train()
    inputs, group = batch(trainer, rows)
    check_equal(trainer, inputs, group)
    if mode == "lora":
        trained = [name for name, value in trainer.model.named_parameters() if value.requires_grad]
        assert {"visual" in name for name in trained} == {True, False}


class Given(grpo.R1GRPOTrainer):
    """The trainer with completions of random tokens: some are cut off, those of the last question are all alike."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        chance, end = Random(0), self.processing_class.tokenizer.eos_token_id
        drawn = [chance.choices(range(60, 200), k=chance.randint(1, 11)) for _ in prompt_ids]
        drawn[-GROUP:] = [drawn[-1]] * GROUP
        return [ids if row % GROUP == 1 else [*ids, end] for row, ids in enumerate(drawn)], None


LOSSES: dict[str, dict[str, Any]] = {
    "reference": {"beta": 0.1, "sync_ref_model": True},
    "reference, lora": {"beta": 0.1, "lora": LORA},
    "old log-probabilities": {"num_iterations": 2},
    "reference and old log-probabilities": {"beta": 0.1, "num_iterations": 2},
    "masked": {"mask_truncated_completions": True, "loss_type": "grpo"},
    "dropped": {"loss_type": "dapo"},
    "two images": {"num_iterations": 2},
}


@pytest.mark.parametrize("mode", LOSSES)
def test_the_loss_of_a_step_is_trls(mode: str, random_checkpoint: Path, rows: Any, tmp_path: Path) -> None:
    """From images and prompts to TRL's loss, with weights that have moved since the completions were scored."""
    trainer = make_trainer(random_checkpoint, rows, tmp_path, kind=Given, **LOSSES[mode])
    trainer.drop_zero_variance = mode == "dropped"
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    questions = [rows[i] for i in range(PROMPTS)]
    if mode == "two images":
        for i, question in enumerate(questions):
            question["images"] = [question.pop("image"), rows[i + PROMPTS]["image"]]
    losses, scored = [], []
    for shares in (False, True):
        trainer.shares_loss = shares
        scored.append(trainer._generate_and_score_completions([one for one in questions for _ in range(GROUP)]))
        with changed_weights(trainer.model, 0.1):
            loss = trainer._compute_loss(trainer.model, scored[-1])
            losses.append((loss.detach(), gradients_of(trainer.model, loss)))
    check_same_loss(*losses[1], *losses[0])
    plain, shared = scored
    assert shared.keys() - plain.keys() == {"prompt_group"}
    assert ("ref_per_token_logps" in plain) == ("reference" in mode)
    assert ("old_per_token_logps" in plain) == ("num_iterations" in LOSSES[mode])
    assert (plain["completion_mask"].sum(1) == 0).any() == (mode == "masked")
    if mode == "dropped":
        assert 0 < shared["num_items_in_batch"] <= shared["completion_mask"][:-GROUP].sum()


def test_rows_in_any_order_and_groups_of_any_size(random_checkpoint: Path, rows: Any, tmp_path: Path) -> None:
    trainer = make_trainer(random_checkpoint, rows, tmp_path)
    inputs, group = batch(trainer, rows, [7, 0, 11, 4, 5, 1, 6])
    check_equal(trainer, inputs, group)
    check_equal(trainer, {**inputs, "batch_size": 3}, group)


@pytest.mark.parametrize("flash", [False, True])
def test_bfloat16_is_as_far_from_float32_as_the_plain_path(
    flash: bool, random_checkpoint: Path, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(random_checkpoint, rows, tmp_path)
    inputs, group = batch(trainer, rows)
    exact = compute(trainer, inputs, None)
    if flash:
        monkeypatch.setattr(packing, "varlen_attn", flash_on_a_cpu)
        monkeypatch.setattr(packing, "flash_takes", lambda _, dtype, dropout: dtype == torch.bfloat16 and not dropout)
    trainer.accelerator.autocast = partial(torch.autocast, "cpu", torch.bfloat16)
    plain, shared = compute(trainer, inputs, None), compute(trainer, inputs, group)
    assert 0 < (shared.logps - exact.logps).abs().mean() < 2 * (plain.logps - exact.logps).abs().mean()

    def apart(one: Computed) -> float:
        return sum(float((one.gradients[name] - value).norm() ** 2) for name, value in exact.gradients.items()) ** 0.5

    assert 0 < apart(shared) < 2 * apart(plain)


def test_a_model_without_the_attention_is_no_silent_error(random_checkpoint: Path, rows: Any, tmp_path: Path) -> None:
    trainer = make_trainer(random_checkpoint, rows, tmp_path)
    inputs, group = batch(trainer, rows)
    trainer.model.set_attn_implementation({"text_config": "sdpa"})
    with pytest.raises(RuntimeError, match="is sdpa, which knows no shared prompts"):
        compute(trainer, inputs, group)


def test_greedy_completions_are_those_of_generate(random_checkpoint: Path, rows: Any, tmp_path: Path) -> None:
    greedy = {"generation_kwargs": {"do_sample": False}}
    trainer = make_trainer(random_checkpoint, rows, tmp_path, **greedy)
    prompts = [
        prepare_multimodal_messages(rows[i]["prompt"], images=[rows[i]["image"]])
        for i in range(PROMPTS)
        for _ in range(GROUP)
    ]
    trainer.model.train()
    answers = []
    for group in (None, torch.arange(len(prompts)) // GROUP):
        with trainer.groups(group):
            ids, images, fields = trainer._tokenize_prompts(prompts)
            answers.append(trainer._generate_single_turn(ids, images, fields, GROUP)[0])
    assert answers[0] == answers[1]
    assert len({tuple(ids) for ids in answers[0]}) > 1


STEPS = ("--steps", "2", "--set", "save_steps=2", "--num-generations", "4", "--learning-rate", "1e-3", "--no-report")


@pytest.mark.parametrize(
    "settings",
    [
        ("per_device_train_batch_size=12", "beta=0.1", "sync_ref_model=true", "ref_model_sync_steps=1"),
        ("per_device_train_batch_size=4", "gradient_accumulation_steps=2", "num_iterations=2"),
    ],
    ids=["reference", "iterations"],
)
def test_a_run_takes_the_steps_of_the_plain_path(
    settings: tuple[str, ...],
    random_checkpoint: Path,
    few_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over whole steps, with the same random numbers: the same completions, rewards, losses and gradients."""

    class Trainer(grpo.R1GRPOTrainer):
        draw = staticmethod(draw_for_all)

    monkeypatch.setattr(grpo, "R1GRPOTrainer", Trainer)
    for place, name in ((grpo_trainer, "shuffle_sequence_dict"), (module, "shuffle_groups")):
        monkeypatch.setattr(place, name, lambda batch: batch)  # they take other numbers of random numbers
    found = []
    for shares in ("true", "false"):
        sets = [word for one in (*settings, f"shared_prefix={shares}") for word in ("--set", one)]
        words = [
            "digits",
            "--data",
            str(few_digits),
            "--model",
            str(random_checkpoint),
            "--out",
            str(tmp_path / shares),
        ]
        done = invoke("training.cli", *words, *STEPS, "--set", "max_completion_length=40", *sets)
        assert done.returncode == 0, done.stderr
        assert ("prompts are computed once a group" in done.stdout) == (shares == "true")
        found.append([json.loads(line) for line in (tmp_path / shares / "metrics.jsonl").read_text().splitlines()])
    compared = {"loss", "grad_norm", "reward", "entropy", "kl", "completions/mean_length"}
    for row, plain in zip(*found, strict=True):
        for name in plain.keys() & compared:
            assert row[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-6), name


def test_a_resumed_run_samples_and_takes_the_steps_of_one_that_was_not_killed(
    random_checkpoint: Path, few_digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, *TINY, "--no-report"]
    words += ["--steps", "3", "--set", "save_steps=2", "--learning-rate", "1e-3"]
    found = []
    for more in ([], ["--resume"]):
        done = invoke("training.cli", *words, *more)
        assert done.returncode == 0, done.stderr
        assert "prompts are computed once a group" in done.stdout
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        numbers = [{name: row[name] for name in ("loss", "grad_norm", "reward", "entropy")} for row in rows]
        found.append((numbers, (out / "completions.jsonl").read_text()))
        (out / "final").unlink()
        shutil.rmtree(out / "checkpoint-3")  # as if it had been killed in its last step
    assert found[0] == found[1]


def test_what_would_differ_is_not_shared(
    random_checkpoint: Path, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(random_checkpoint, rows, tmp_path, generation_kwargs={"repetition_penalty": 1.2})
    assert trainer.shares_loss
    assert not trainer.shares_generation
    text = trainer.model.config.get_text_config()
    monkeypatch.setattr(text, "layer_types", ["sliding_attention", *text.layer_types[1:]])
    with pytest.raises(SharingError, match="layers of sliding_attention"):
        trainer.share_prefixes()
    monkeypatch.undo()
    with pytest.raises(SharingError, match="the model takes token_type_ids"):  # as Gemma 3 does
        module.select_images({"token_type_ids": torch.zeros(1, 2)}, [0])
    trainer.model.set_attn_implementation({"text_config": "eager"})
    with pytest.raises(SharingError, match="the model's attention is eager"):
        trainer.share_prefixes()


def test_a_model_whose_numbers_differ_goes_on_without(
    random_checkpoint: Path,
    rows: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one that attends from completion to completion would."""
    trainer = make_trainer(random_checkpoint, rows, tmp_path)
    assert trainer.model.config.get_text_config()._attn_implementation == ATTENTION
    callback = trial.SharingTrial()
    callback.trainer = trainer

    def shifted(*words: Any, **options: Any) -> Tensor:
        return positions(*words, **options) + torch.arange(words[1].shape[1]) % 2

    positions = module.prompt_positions
    monkeypatch.setattr(module, "prompt_positions", shifted)
    state = type("State", (), {"is_world_process_zero": True})
    callback.on_train_begin(trainer.args, state, None)
    assert "prompts are not shared, which takes longer: log-probabilities are" in capsys.readouterr().out
    assert not trainer.shares_loss
    assert not trainer.shares_generation

"""The `r1` config trains with TRL alone, by a loop written from TRL's own documentation, with nothing of ours in it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from training.trl_compat import ReadableCompletions, conversation_text


def reward_answer(completions: list[Any], answer: list[str], **kwargs: object) -> list[float]:
    return [float(f"<answer>{right}</answer>" in completion[0]["content"]) + len(completion[0]["content"]) / 1000
            for completion, right in zip(completions, answer, strict=True)]  # fmt: skip


def test_transformers_alone_goes_on_with_the_first_weights(random_checkpoint: Path, tmp_path: Path) -> None:
    """Where this fails, transformers #43701 is fixed, and AtomicCheckpoints needs no `_load_from_checkpoint`."""
    changed, fresh = (AutoModelForImageTextToText.from_pretrained(random_checkpoint) for _ in range(2))
    with torch.no_grad():
        for value in changed.parameters():
            value.add_(1.0)
    changed.save_pretrained(tmp_path / "checkpoint-1")
    before = {name: value.clone() for name, value in fresh.named_parameters()}
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    Trainer(model=fresh, args=args)._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(value, before[name]) for name, value in fresh.named_parameters())


def test_trl_has_no_dynamic_sampling() -> None:
    named = [field.name for field in fields(GRPOConfig) if "dynamic" in field.name or "resampl" in field.name]
    assert not named, "look whether trainers/dynamic_sampling.py is still needed"


def make_trainer(kind: type[GRPOTrainer], model: Any, folder: Path, checkpoint: Path, **settings: Any) -> GRPOTrainer:
    """A trainer on the dataset in a folder, on the CPU, which logs each step."""
    return kind(
        model=model,
        processing_class=AutoProcessor.from_pretrained(checkpoint, padding_side="left"),
        reward_funcs=reward_answer,
        args=GRPOConfig(num_generations=4, report_to="none", use_cpu=True, bf16=False, logging_steps=1, **settings),
        train_dataset=load_dataset(str(folder), "r1", split="train"),
    )


def test_the_r1_config_trains_with_trls_own_example(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(random_checkpoint)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = make_trainer(
        GRPOTrainer,
        model,
        digits_folder,
        random_checkpoint,
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        max_completion_length=16,
        max_steps=2,
        learning_rate=1e-3,
        generation_kwargs={"suppress_tokens": [model.config.image_token_id, model.config.video_token_id]},
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert all("reward" in row for row in trainer.state.log_history[:2])
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert any("visual" in name for name in moved)
    assert any("language_model" in name for name in moved)


@pytest.mark.parametrize("kind", [GRPOTrainer, ReadableCompletions])
def test_what_was_sampled_is_logged_as_text(
    kind: type[GRPOTrainer], digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        kind,
        AutoModelForImageTextToText.from_pretrained(random_checkpoint),
        digits_folder,
        random_checkpoint,
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_completion_length=4,
        max_steps=1,
        log_completions=True,
        num_completions_to_print=0,
    )
    trainer.train()
    rows = pq.read_table(tmp_path / "completions" / "completions_00001.parquet").to_pylist()
    if kind is GRPOTrainer:
        assert all(isinstance(row["prompt"], list) for row in rows), "look whether ReadableCompletions is still needed"
        return
    assert all(re.fullmatch(r"system: .*\n\nuser: \[image\] .*", row["prompt"], re.DOTALL) for row in rows)
    assert all(row["completion"].startswith("assistant: ") for row in rows)
    assert conversation_text(rows[0]["prompt"]) == rows[0]["prompt"]

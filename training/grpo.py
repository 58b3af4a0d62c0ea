"""GRPO: a model samples several answers to a question, and the better ones become likelier.

Group Relative Policy Optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300) as TRL's GRPOTrainer has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer

from datagen.dataset import open_dataset
from datagen.errors import UserError
from datagen.r1 import completion_of, vision_token_ids
from training.checkpoints import WholeCheckpoints, last_checkpoint, make_record, read_record
from training.config import Run, refusals, trl_config
from training.model import load, locate
from training.progress import COMPLETIONS, Progress, forget_after
from training.rank import is_main
from training.rewards import Judge


class WholeGRPOTrainer(WholeCheckpoints, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with checkpoints that are complete or not there."""


def train(run: Run) -> Path:
    """Run GRPO, or go on with it from the last checkpoint in its folder; returns the last checkpoint.

    Raises:
        UserError: for settings that TRL refuses, and a completion limit that the longest solution does not fit.
    """
    out = Path(run.out)
    config = trl_config(run)
    built = open_dataset(run.data)
    questions = built.questions("train", run.tasks)
    start = read_record(locate(run.model))
    if start.get("dataset_fingerprint") == built.fingerprint and start["tasks"] == run.tasks:
        questions = questions.select(range(start.get("traces", 0), len(questions)))  # fresh ones: no trace was shown
    lora = run.settings.get("lora")
    dtype = "bfloat16" if lora and config.bf16 else "float32"  # the base of LoRA is never stepped
    model, processor = load(run.model, freeze_vision=run.settings.get("freeze_vision", False), dtype=dtype)
    config.max_completion_length = limit_for(questions["solution"], processor, config.max_completion_length)
    config.generation_kwargs = {
        "suppress_tokens": vision_token_ids(processor.tokenizer.get_vocab()),
        **(config.generation_kwargs or {}),
    }
    judge = Judge(run.tasks, out / COMPLETIONS)
    with refusals():
        trainer = WholeGRPOTrainer(
            model=model,
            processing_class=processor,
            args=config,
            train_dataset=questions,
            reward_funcs=judge.functions(),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None,
            callbacks=[Progress(out, "GRPO")],
        )
    trainer.record = make_record(run, "grpo")
    trainer.shown = lambda step: f"{start.get('shown', '')} {step} steps of GRPO on questions without a trace.".strip()
    return go(trainer, out)


def go(trainer: Any, out: Path) -> Path:
    """Train from the last checkpoint in `out`, or from the start; returns the last checkpoint."""
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    resume = last_checkpoint(out)
    if is_main():
        forget_after(out, int(resume.name.rpartition("-")[2]) if resume else 0)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    last = last_checkpoint(out)
    if last is None:
        raise RuntimeError(f"training ended without a checkpoint in {out}")
    return last


def limit_for(solutions: list[str], processor: Any, limit: int | None) -> int:
    """The most tokens a completion may have: `limit`, or 16 more than the longest solution where that is None.

    Raises:
        UserError: where the longest solution does not fit. A limit that is too short silently punishes right answers.
    """
    lengths = [len(ids) for ids in processor.tokenizer([completion_of(text) for text in solutions])["input_ids"]]
    longest = max(lengths) + 1  # the end of the turn
    if limit is None:
        return longest + 16
    if longest > limit:
        raise UserError(
            f"max_completion_length={limit} cuts off right answers, which have up to {longest} tokens: raise it"
        )
    return limit

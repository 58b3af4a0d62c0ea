"""GRPO: a model samples several answers to a question, and the better ones become likelier.

Group Relative Policy Optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300) as TRL's GRPOTrainer has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer

from datagen.common.errors import UserError
from datagen.dataset.reader import open_dataset
from datagen.r1_format import completion_of
from datagen.registry import find_owner
from training.callbacks.diagnosis import Diagnosis
from training.callbacks.metrics_logging import COMPLETIONS, Progress, forget_after
from training.callbacks.validation import HeldOut
from training.config import Run, refusals, trl_config, weights
from training.distributed import is_main
from training.models import load, locate
from training.rollout.parity import BANNED, Preflight, banned_tokens
from training.trainers.checkpoints import WholeCheckpoints, last_checkpoint, make_record, read_record
from training.trainers.curriculum import KeptOrder, easiest_first
from training.trainers.ref_model import KeptReference, reference_of
from training.trainers.rewards import Judge
from training.trainers.zero_variance import CountedGroups, check_droppable


class WholeGRPOTrainer(WholeCheckpoints, KeptReference, CountedGroups, GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with checkpoints that are complete or not there, and groups without variance counted."""


def train(run: Run, *, preflight: bool = True) -> Path:
    """Run GRPO, or go on with it from the last checkpoint in its folder; returns the last checkpoint.

    Raises:
        UserError: for settings that TRL refuses, a completion limit that the longest solution does not fit, and what
            `preflight` finds.
    """
    out = Path(run.out)
    config = trl_config(run)
    built = open_dataset(run.data)
    questions = built.questions("train", run.tasks)
    start = read_record(locate(run.model))
    if start.get("dataset_fingerprint") == built.fingerprint and start["tasks"] == run.tasks:
        questions = questions.select(range(start.get("traces", 0), len(questions)))  # fresh ones: no trace was shown
    if run.settings.get("curriculum") == "difficulty":
        questions = easiest_first(questions, find_owner(run.tasks[0]), config)
    if run.settings.get("drop_zero_variance"):
        check_droppable(config)
    lora = run.settings.get("lora")
    dtype = "bfloat16" if lora and config.bf16 else "float32"  # the base of LoRA is never stepped
    model, processor = load(run.model, run.settings, dtype=dtype)
    config.max_completion_length = limit_for(questions["solution"], processor, config.max_completion_length)
    config.generation_kwargs = {**without(banned_tokens(processor), config), **(config.generation_kwargs or {})}
    judge = Judge(run.tasks, out / COMPLETIONS)
    watchers: list[Any] = [Preflight()] if preflight else []
    if config.eval_steps is not None:
        held_out = built.questions("validation", run.tasks)
        watchers.append(HeldOut(held_out, dict(zip(judge.names, weights(run), strict=True))))
    images = run.settings.get("image_processor")
    with (
        reference_of(model, last_checkpoint(out)),
        rollouts(config, questions, processor, images) as rollout_func,
        refusals(),
    ):
        trainer = WholeGRPOTrainer(
            model=model,
            processing_class=processor,
            args=config,
            train_dataset=questions,
            reward_funcs=judge.functions(),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None,
            rollout_func=rollout_func,
            callbacks=[KeptOrder(), *watchers, Progress(out, "GRPO"), Diagnosis(out)],
        )
    for watcher in watchers:
        watcher.trainer = trainer
    trainer.drop_zero_variance = run.settings.get("drop_zero_variance", False)
    trainer.record = make_record(run, "grpo")
    trainer.shown = lambda step: f"{start.get('shown', '')} {step} steps of GRPO on questions without a trace.".strip()
    return go(trainer, out)


def without(tokens: Iterable[int], config: Any) -> dict[str, Any]:
    """Generation settings that never sample some tokens, for transformers or for vLLM as the configuration has it."""
    return {"logit_bias": dict.fromkeys(tokens, BANNED)} if config.use_vllm else {"suppress_tokens": list(tokens)}


@contextmanager
def rollouts(config: Any, questions: Any, processor: Any, images: dict[str, Any] | None = None) -> Iterator[Any]:
    """Gives the rollout function of a trainer that is made inside; None where transformers generates.

    `images` are the changes to the model's image processor.
    """
    if not config.use_vllm:
        yield None
        return
    from training.rollout.vllm import engine_for, longest_prompt, rollout

    if config.vllm_mode == "colocate" and config.vllm_max_model_length is None:
        config.vllm_max_model_length = longest_prompt(questions, processor) + config.max_completion_length
    with engine_for(config, images):
        yield rollout


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

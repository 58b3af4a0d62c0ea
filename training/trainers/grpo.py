"""GRPO: a model samples several answers to a question, and the better ones become likelier.

Group Relative Policy Optimization (Shao et al. 2024, https://arxiv.org/abs/2402.03300) as TRL's GRPOTrainer has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from transformers import PrinterCallback, ProgressCallback

from datagen.common.errors import UserError
from datagen.common.formatting import visible
from datagen.common.untrusted import read_object
from datagen.dataset.reader import most_images, open_dataset
from datagen.hub.chat_template import check_questions, stop_token_ids
from datagen.hub.generation import FAMILIES
from datagen.hub.record import read_record
from datagen.hub.run_folder import CHECKPOINT, last_checkpoint, step_of, whole_checkpoints
from datagen.r1_format import completion_of, with_tool_turns
from datagen.registry import find_dataset_or_task
from training.callbacks.diagnosis import DiagnosisCallback
from training.callbacks.metrics_logging import COMPLETIONS, MetricsLogger, truncate_logs
from training.callbacks.validation import ValidationCallback
from training.config import StageConfig
from training.distributed import is_main
from training.models import (
    adapter_settings,
    check_adapted,
    load_model,
    lora_config,
    model_folder,
)
from training.rollout.multi_turn import MultiTurn, ToolEnvironment, check_episode, longest_trace, own_parser
from training.rollout.parity import BANNED, ParityCheck, banned_tokens
from training.trainers.checkpoints import RecordedCheckpoints, make_record, traces_shown
from training.trainers.curriculum import check_enough, easiest_first, first_untraced
from training.trainers.dynamic_sampling import DynamicSampling
from training.trainers.rewards import RewardFunctions
from training.trainers.shared_prefix.trainer import SharedPrefix, SharingError
from training.trainers.shared_prefix.trial import SharingTrial
from training.trainers.zero_variance import ZeroVarianceGroups, check_zero_variance_settings
from training.trl_compat import (
    ReadableCompletions,
    ReferenceCheckpoints,
    ResumeDataOrder,
    engine_for,
    reference_from_checkpoint,
)
from training.trl_config import make_trl_config, reward_weights, trl_errors_explained
from training.turns import check_turns, goes_on_rule, turns_of

EPISODES = 4  # traces on which a chat template is tried


class R1GRPOTrainer(
    DynamicSampling,
    RecordedCheckpoints,
    ReferenceCheckpoints,
    ReadableCompletions,
    ZeroVarianceGroups,
    SharedPrefix,
    MultiTurn,
):
    """TRL's trainer with complete checkpoints, each with a record, shared prompts, and a say in what is asked next."""


def train(stage: StageConfig, *, preflight: bool = True) -> Path:
    """Run GRPO, or go on with it from the last checkpoint in its folder; returns the last checkpoint.

    Raises:
        UserError: for settings that TRL refuses, too few questions for a step, a completion limit that the longest
            solution does not fit, and what `preflight` finds.
    """
    out = Path(stage.out)
    config = make_trl_config(stage)
    built = open_dataset(stage.data)
    base = read_record(model_folder(stage.model))
    every = built.questions("train", stage.tasks)
    questions = fresh_questions(every, traces_shown(stage, base))
    check_enough(len(questions), config)
    dataset = find_dataset_or_task(stage.tasks[0])
    if stage.settings.get("curriculum") == "difficulty":
        questions = easiest_first(questions, dataset, config)
    if stage.settings.get("drop_zero_variance"):
        check_zero_variance_settings(config)
    frozen = stage.settings.get("lora") or adapter_settings(stage.model)  # an adapter's base is never stepped
    model, processor = load_model(
        stage.model, stage.settings, dtype="bfloat16" if frozen and config.bf16 else "float32"
    )
    shown = most_images(questions)
    check_questions(questions["prompt"], processor, shown)
    turns = turns_of(stage.tasks)
    goes_on = goes_on_rule(stage.tasks) if turns > 1 else None
    if turns > 1:
        check_turns(stage.tasks, use_vllm=config.use_vllm, processes=config.world_size)
        config.max_tool_calling_iterations = turns - 1
        processor.chat_template = with_tool_turns(processor.chat_template)
        for row in questions.select(range(min(EPISODES, len(questions)))):
            check_episode(row, processor)
        longest = longest_trace(questions, processor)
    else:
        longest = longest_solution(questions["solution"], processor)
    config.max_completion_length = completion_limit(longest, config.max_completion_length)
    stops = {"stop_token_ids": stop_token_ids(processor)} if config.use_vllm else {}  # it knows the folder's own
    banned = ban_tokens(banned_tokens(processor), config)
    config.generation_kwargs = {**stops, **banned, **(config.generation_kwargs or {})}
    rewards = RewardFunctions(stage.tasks, out / COMPLETIONS)
    checks: list[Any] = [ParityCheck(), SharingTrial()] if preflight else []
    if config.eval_steps is not None:
        held_out = built.questions("validation", stage.tasks)
        shown = max(shown, most_images(held_out))
        checks.append(ValidationCallback(held_out, dict(zip(rewards.names, reward_weights(stage), strict=True))))
    images = stage.settings.get("image_processor")
    with (
        reference_from_checkpoint(model, last_checkpoint(out)),
        rollout_backend(config, questions, processor, images, shown) as rollout_func,
        own_parser(processor.tokenizer, goes_on) if goes_on else nullcontext(),
        trl_errors_explained(),
    ):
        trainer = R1GRPOTrainer(
            model=model,
            processing_class=processor,
            args=config,
            train_dataset=questions,
            reward_funcs=rewards.functions(),
            peft_config=lora_config(model, stage.settings),
            rollout_func=rollout_func,
            environment_factory=ToolEnvironment if turns > 1 else None,
            callbacks=[ResumeDataOrder(), *checks, MetricsLogger(out, "GRPO"), DiagnosisCallback(out)],
        )
    check_adapted(trainer.base_of(trainer.model), stage.settings)
    for check in checks:
        check.trainer = trainer
    say_what_vllm_is_sent(trainer)
    if goes_on:
        trainer.play_episodes(goes_on, trainer.base_of(trainer.model))
    if stage.settings.get("shared_prefix", True):
        share_prefixes(trainer, tried=preflight)
    trainer.choose_questions(stage, dataset, last_checkpoint(out))
    trainer.drop_zero_variance = stage.settings.get("drop_zero_variance", False)
    describe(trainer, stage, base, len(every))
    return run_trainer(trainer, out)


def fresh_questions(questions: Any, traces: int) -> Any:
    """The training questions of which the model was shown none of its `traces`; all where there are no others."""
    return questions.select(range(first_untraced(len(questions), traces), len(questions)))


def describe(trainer: RecordedCheckpoints, stage: StageConfig, base: Mapping[str, Any], questions: int) -> None:
    """Have the checkpoints say what made them; `base` is the model's record, `questions` are all of the train split."""
    traces = traces_shown(stage, base)
    trainer.record = make_record(stage, "grpo") | {"traces": traces}
    trainer.shown = partial(shown_after, before=base.get("shown", ""), questions=questions, traces=traces)


def shown_after(step: int, *, before: str, questions: int, traces: int) -> str:
    """What a model has been shown after so many steps on a dataset of `questions`, of `traces` of which it had a trace.

    `before` is what it had been shown before the first.
    """
    traced = first_untraced(questions, traces) < traces
    asked = "the questions that it was shown traces of" if traced else "questions without a trace"
    return f"{before} {step} steps of GRPO on {asked}.".strip()


def share_prefixes(trainer: SharedPrefix, *, tried: bool) -> None:
    """Have the image and the prompt of a group computed once, or say why not. `tried`: a trial will compare numbers."""
    family = trainer.base_of(trainer.model).config.model_type
    try:
        if not tried and family not in FAMILIES:
            raise SharingError(f"{family} is to be tried first, and --no-preflight leaves that out")
        trainer.share_prefixes()
    except SharingError as error:
        if is_main():
            print(f"prompts are not shared, which takes longer: {error}", flush=True)


def say_what_vllm_is_sent(trainer: Any) -> None:
    """Print whether an adapter is sent to vLLM alone, and why not; nothing where all weights are trained."""
    if trainer.use_vllm and is_peft_model(trainer.model) and is_main():
        reason = trainer.vllm_generation.merges
        way = f"all weights, with the adapter merged into them: {reason}" if reason else "the adapter alone"
        print(f"vLLM is sent {way}", flush=True)


def ban_tokens(tokens: Iterable[int], config: Any) -> dict[str, Any]:
    """Generation settings that never sample some tokens, for transformers or for vLLM as the configuration has it."""
    return {"logit_bias": dict.fromkeys(tokens, BANNED)} if config.use_vllm else {"suppress_tokens": list(tokens)}


@contextmanager
def rollout_backend(
    config: Any, questions: Any, processor: Any, images: dict[str, Any] | None = None, shown: int = 1
) -> Iterator[Any]:
    """Gives the rollout function of a trainer that is made inside; None where transformers generates.

    `images` are the changes to the model's image processor, `shown` the most images that a question shows.
    """
    if not config.use_vllm:
        yield None
        return
    from training.rollout.vllm import longest_prompt, rollout_func

    if config.vllm_mode == "colocate" and config.vllm_max_model_length is None:
        config.vllm_max_model_length = longest_prompt(questions, processor) + config.max_completion_length
    with engine_for(config, shown, images):
        yield rollout_func


def run_trainer(trainer: Any, out: Path) -> Path:
    """Train from the last checkpoint in `out`, or from the start; returns the last checkpoint.

    Raises:
        UserError: where a file is in a checkpoint's place, or the last checkpoint can't be resumed.
    """
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    checkpoints, left_out = whole_checkpoints(out)
    resume = checkpoints[-1] if checkpoints else None
    if in_the_way := [path for path in out.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_file()]:
        raise UserError(f"{in_the_way[0]} is a file where a checkpoint is to be saved: remove it")
    if resume is not None:
        check_resumable(resume)
    if is_main():
        for sentence in left_out:
            print(f"note: {sentence}", flush=True)
        if resume is not None:
            print(f"{visible(out.name)}: goes on from {resume.name}", flush=True)
        truncate_logs(out, step_of(resume) if resume else 0)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, MetricsLogger):
                callback.close()
    last = last_checkpoint(out)
    if last is None:
        raise RuntimeError(f"training ended without a checkpoint in {out}")
    return last


def check_resumable(checkpoint: Path) -> None:
    """Raise a `UserError` where a checkpoint lacks what it takes to go on with the steps of a run never stopped.

    That is the case after `save_only_model=true`. transformers would begin anew what is missing, and say nothing.
    """
    needed = {
        "trainer state": ("trainer_state.json",),
        "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),  # alone, FSDP, FSDP2, DeepSpeed
        "learning rate": ("scheduler.pt", "global_step*"),
        "random state": ("rng_state*.pth",),
    }
    lacking = [name for name, patterns in needed.items() if not any(any(checkpoint.glob(one)) for one in patterns)]
    if lacking:
        raise UserError(
            f"{checkpoint} lacks the {', '.join(lacking)}, so that no run can go on from it (save_only_model=true "
            f"leaves them out): train a new run with --model {checkpoint}"
        )
    read_object(checkpoint / "trainer_state.json", "delete the checkpoint, and go on from the one before", ours=False)


def longest_solution(solutions: list[str], processor: Any) -> int:
    """Tokens of the longest solution, with the end of its turn."""
    return max(map(len, processor.tokenizer([completion_of(text) for text in solutions])["input_ids"])) + 1


def completion_limit(longest: int, limit: int | None) -> int:
    """The most tokens a completion may have: `limit`, or 16 more than the longest solution where that is None.

    Raises:
        UserError: where the longest solution does not fit. A limit that is too short silently punishes right answers.
    """
    if limit is None:
        return longest + 16
    if longest > limit:
        raise UserError(
            f"max_completion_length={limit} cuts off right answers, which have up to {longest} tokens: raise it"
        )
    return limit

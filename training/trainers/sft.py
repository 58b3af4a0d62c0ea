"""The cold start: supervised training on a few traces of reasoning, so that a model knows how to think aloud.

DeepSeek-R1 does this before its reinforcement learning (Guo et al. 2025, https://arxiv.org/abs/2501.12948, 2.3.1). The
traces are the `solution` column of the dataset's `train` split.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from trl import SFTTrainer
from trl.data_utils import prepare_multimodal_messages

from datagen.common.errors import UserError
from datagen.dataset.reader import most_images, open_dataset
from datagen.environment import trace_of
from datagen.hub.chat_template import check_questions, end_of_turn
from datagen.hub.record import read_record
from datagen.interaction import IMAGE_COLUMNS, question_images
from datagen.r1_format import completion_of, parse
from datagen.registry import find_task
from training.callbacks.metrics_logging import MetricsLogger
from training.config import StageConfig
from training.models import load_model, model_folder
from training.rollout.multi_turn import conversation, images_in
from training.trainers.checkpoints import RecordedCheckpoints, make_record, traces_shown
from training.trainers.grpo import run_trainer
from training.trl_config import make_trl_config, trl_errors_explained
from training.turns import turns_of


class R1SFTTrainer(RecordedCheckpoints, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with complete checkpoints, and a record in each."""


def train(stage: StageConfig) -> Path:
    """Train on the first `traces` solutions of the train split; returns the last checkpoint.

    Raises:
        UserError: for settings that TRL refuses, a chat template that rewrites the traces, and answers without
            reasoning.
    """
    out = Path(stage.out)
    config = make_trl_config(stage)
    rows = open_dataset(stage.data).questions("train", stage.tasks)
    rows = rows.select(range(min(stage.settings["traces"], len(rows))))
    check_reasoning(rows["solution"], stage)
    model, processor = load_model(stage.model, stage.settings)
    check_questions(rows["prompt"], processor, most_images(rows))
    traces = episode_traces(rows, processor) if turns_of(stage.tasks) > 1 else single_traces(rows, processor)
    with trl_errors_explained():
        trainer = R1SFTTrainer(
            model=model,
            processing_class=processor,
            args=config,
            train_dataset=traces,
            callbacks=[MetricsLogger(out, "cold start")],
        )
    base = read_record(model_folder(stage.model))
    before = base.get("shown", "")
    traces_seen = f"supervised training on {len(rows)} correct traces of {', '.join(stage.tasks)}."
    trainer.record = make_record(stage, "cold-start") | {"traces": max(len(rows), traces_shown(stage, base))}
    trainer.shown = lambda step: f"{before} {step} steps of {traces_seen}".strip()
    return run_trainer(trainer, out)


def single_traces(rows: Any, processor: Any) -> Any:
    """The questions with their solutions, in TRL's conversational prompt-completion form.

    Raises:
        UserError: as `check_traces`.
    """
    others = [name for name in rows.column_names if name not in ("prompt", *IMAGE_COLUMNS)]
    end = "" if end_of_turn(processor) else processor.tokenizer.eos_token
    traces = rows.map(as_trace, fn_kwargs={"end": end}, remove_columns=others)
    check_traces(traces, processor)
    return traces


def episode_traces(rows: Any, processor: Any) -> Any:
    """A row for each message of each trace, in TRL's standard prompt-completion form: what is rendered before, the
    images in it, and the message with its end. So no token of what comes back is trained on.

    Raises:
        UserError: where the chat template ends an answer with what is no special token.
    """
    end = end_of_turn(processor) or processor.tokenizer.eos_token
    traces = []
    for row in rows:
        talk = conversation(row, trace_of(find_task(row["task"]), row))
        for at, turn in enumerate(talk):
            if turn["role"] == "assistant":
                prompt = processor.apply_chat_template(talk[:at], tokenize=False, add_generation_prompt=True)
                said = completion_of(turn["content"][0]["text"]) + end
                traces.append({"prompt": prompt, "completion": said, "images": images_in(talk[:at])})
    columns = {"prompt": Value("string"), "completion": Value("string"), "images": List(Image())}
    return Dataset.from_list(traces, Features(columns))


def check_reasoning(solutions: Iterable[str], stage: StageConfig) -> None:
    """Raise a `UserError` where solutions have no reasoning: images of your own may have come without."""
    if any((parsed := parse(text)) is None or not parsed[0].strip() for text in solutions):
        raise UserError(
            f"{stage.data} has answers without reasoning, so that a cold start on traces is not possible: import it "
            "with --solution, or train with GRPO alone, on a model that is not built in"
        )


def check_traces(traces: Any, processor: Any) -> None:
    """Raise a `UserError` where the chat template does not render a trace behind its prompt, as it stands.

    Templates of models that think by themselves take the reasoning of a message apart and write it anew. TRL would
    train on other tokens than those behind the prompt, with a warning at most.
    """
    row = traces[0]
    written = completion_of(row["completion"][0]["content"])
    turns = prepare_multimodal_messages([*row["prompt"], *row["completion"]], images=question_images(row))
    prompt = processor.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    if not processor.apply_chat_template(turns, tokenize=False).startswith(prompt + written):
        raise UserError(
            "the model's chat template rewrites the reasoning of an answer, so that a cold start on traces is not "
            "possible: train it with GRPO alone"
        )


def as_trace(row: dict[str, Any], end: str) -> dict[str, Any]:
    """A question and its solution, in TRL's prompt-completion form.

    `end` is what ends the answer where the chat template writes nothing behind it (LLaVA-1.5's, for one): a model that
    is never shown an end does not learn to stop.
    """
    return {"completion": [{"role": "assistant", "content": row["solution"] + end}]}

"""What it takes to give a colocated vLLM a LoRA adapter: `python -m benchmarks.adapter_sync`, after `make test-vllm`.

The adapter alone beside all weights with the adapter merged into them, each in a process of its own, for the built-in
model and for the one of 40 million random weights of `benchmarks.shared_prefix`: the bytes that are handed over, the
seconds of a sync, and the seconds that vLLM then takes to sample, which has to apply an adapter that is not merged.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.shared_prefix import make_large
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from training.models import model_folder
from training.recipes import load_recipe

ROUNDS = 7
QUESTIONS, GROUP = 4, 4


def make_trainer(
    model: Path, data: Path, out: Path, lora: dict[str, Any], *, alone: bool = False, **settings: Any
) -> Any:
    """A GRPO trainer of an adapter on a model, with a vLLM, of which nothing has been trained yet.

    With `alone` vLLM is sent the adapter alone where it takes it; no run does that on a CPU.
    """
    from peft import LoraConfig
    from trl import GRPOConfig

    from datagen.dataset.reader import open_dataset
    from training import trl_compat
    from training.models import load_model
    from training.rollout.parity import banned_tokens
    from training.trainers.grpo import R1GRPOTrainer, ban_tokens, rollout_backend
    from training.trainers.rewards import RewardFunctions

    questions = open_dataset(data).questions("train", ["list", "sum"])
    network, processor = load_model(str(model))
    images = {"size": dict(processor.image_processor.size)}
    usual = {"per_device_train_batch_size": 16, "num_generations": GROUP, "max_completion_length": 32}
    config = GRPOConfig(
        output_dir=str(out),
        use_vllm=True,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        bf16=False,
        remove_unused_columns=False,
        **usual | settings,
    )
    config.generation_kwargs = ban_tokens(banned_tokens(processor), config)

    def on_any_device(vllm: Any) -> str | None:
        return trl_compat.lora_obstacle(vllm.model)

    with (
        patch.object(trl_compat, "adapter_obstacle", on_any_device) if alone else nullcontext(),
        rollout_backend(config, questions, processor, images) as rollout_func,
    ):
        return R1GRPOTrainer(
            model=network,
            processing_class=processor,
            args=config,
            train_dataset=questions,
            reward_funcs=RewardFunctions(["list", "sum"]).functions(),
            rollout_func=rollout_func,
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
        )


def measure(model: Path, data: Path, alone: bool) -> tuple[int, list[float], list[float]]:
    """The bytes of a sync, and the seconds of each sync and of the sampling behind it."""
    from peft import get_peft_model_state_dict
    from trl.data_utils import prepare_multimodal_messages

    lora = load_recipe("lora")["grpo"]["lora"]
    with tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(model, data, Path(out), lora, alone=alone, per_device_train_batch_size=QUESTIONS * GROUP)
    vllm = trainer.vllm_generation
    if (vllm.merges is None) != alone:
        raise RuntimeError(f"the adapter is not sent alone: {vllm.merges}")
    rows = trainer.train_dataset.select(range(QUESTIONS))
    prompts = [prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in rows for _ in range(GROUP)]
    sent = get_peft_model_state_dict(trainer.model).items() if alone else vllm._iter_named_params()
    size = sum(value.nbytes for _, value in sent)
    trainer.model.train()
    syncs, samples = [], []
    for i in range(ROUNDS + 1):
        started = time.perf_counter()
        vllm.sync_weights()
        synced = time.perf_counter()
        trainer.rollout_func(prompts, trainer)
        if i:  # the first time something is always made
            syncs.append(synced - started)
            samples.append(time.perf_counter() - synced)
    return size, syncs, samples


def span(seconds: list[float]) -> str:
    """The median, and all that was measured."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = build(DatasetConfig(dataset="digits", size=200, seed=0), folder / "data", executor=map)
        models = {"built-in model": model_folder("small"), "40 M parameters": make_large(folder / "large")}
        print("| model | what is sent | MB a sync | seconds a sync (all) | seconds to sample (all) |")
        print("|---|---|---:|---:|---:|")
        for model, place in models.items():
            for way, alone in (("all weights, merged", False), ("the adapter alone", True)):
                with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                    size, syncs, samples = pool.apply(measure, (place, data, alone))
                print(f"| {model} | {way} | {size / 1e6:.2f} | {span(syncs)} | {span(samples)} |", flush=True)


if __name__ == "__main__":
    main()

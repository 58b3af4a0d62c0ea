"""Everything of TRL's and transformers' that is private and overridden, each part with what ends it.

Written against TRL 1.16 and transformers 5.17. `tests/training/test_trl_contract.py` and `test_vllm_rollouts.py` fail
where an upstream release makes a part unnecessary. Where there is no issue, look again with each upgrade.

| part | what is missing upstream | ends with |
|---|---|---|
| `AtomicCheckpoints._save_checkpoint` | half a checkpoint counts as a whole one | transformers pull request #35580 |
| `AtomicCheckpoints._load_from_checkpoint` | a run is resumed with its first weights | transformers #43701, #40187 |
| `ReferenceCheckpoints`, `reference_from_checkpoint` | a synced reference model is not saved | no issue |
| `ResumeDataOrder` | each later epoch of a resumed run has the order of the first | no issue |
| `trainers.shared_prefix.trainer` | prompts are forwarded once a completion | no issue for images |
| `trainers.dynamic_sampling` | no dynamic sampling, and no say in what is asked next | no issue |
| `MultiTurn._get_tool_suffix_ids` | what came back is tokenized anew in each episode, its images too | no issue |
| `ReadableCompletions.log` | trackers get conversations as objects: trackio 0.43 shows `[object Object]` | no issue |
| `ScoredBatches` | no hook between the scoring of completions and the loss | no issue |
| `SyncedVLLMGeneration.sync_weights` | images of old weights stay in vLLM's cache | TRL #7198, pull request #7200 |
| `SyncedVLLMGeneration.send_adapter` | all weights are sent where an adapter would do | TRL #5975, pull request #6007 |
| `SyncedVLLMGeneration._iter_named_params` | merging an adapter in place changes its base | TRL #6688 |
| `engine_for` | no settings for vLLM's precision and images a prompt | TRL #6776, pull request #6816 |
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
from accelerate.utils import is_peft_model
from peft.tuners import lora
from peft.tuners.lora import LoraLayer
from transformers import Trainer, TrainerCallback
from trl import GRPOTrainer
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from datagen.common.errors import UserError
from datagen.hub.run_folder import CHECKPOINT, step_of
from training.trl_config import precision

STAGING = ".saving"
FULL_DISK = re.compile(
    r"No space left|quota exceeded|os error (28|122)|PytorchStreamWriter|inline_container", re.IGNORECASE
)
REFERENCE = "reference"  # in a checkpoint
ADAPTER = "default"  # PEFT's name of the adapter in training
LARGEST_RANK = 512  # of the adapters that vLLM 0.31 takes
MEMORY = "/dev/shm"  # a folder that is no disk  # noqa: S108


def rotate_checkpoints(out: Path, limit: int | None, kept: set[int | None]) -> None:
    """Delete the oldest checkpoints but `limit`, those of the steps `kept` not.

    transformers' own takes a folder such as `checkpoint-best`, which somebody made, for a checkpoint.
    """
    paths = [path for path in out.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    spare = sorted((path for path in paths if step_of(path) not in kept), key=step_of)
    if limit:
        for path in spare[: max(0, len(paths) - max(limit, len(paths) - len(spare)))]:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def full_disk_explained(staging: Path) -> Iterator[None]:
    """Inside, a checkpoint is written into `staging`; where that fails for want of room, it is removed again.

    Neither safetensors nor torch raise an OSError then, but errors of their own with the system's words in them.

    Raises:
        UserError: where the disk is full, or a quota is.
    """
    try:
        yield
    except Exception as error:
        if not FULL_DISK.search(repr(error) + repr(error.__context__)):
            raise
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"can't write a checkpoint to {staging.parent}: no space left on the disk, or in the quota; free some, "
            "then go on with --resume from the checkpoint before, which is whole"
        ) from error


class AtomicCheckpoints(Trainer):  # type: ignore[misc]
    """A mixin for transformers' trainers: checkpoints are written in a staging folder and renamed when complete."""

    def complete_checkpoint(self, checkpoint: Path) -> None:
        """Add files to a checkpoint before it gets its name. Called in the process that saves."""

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        staging, out = Path(self._get_output_dir(trial)), Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed while it saved
        self.accelerator.wait_for_everyone()
        with full_disk_explained(staging):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.complete_checkpoint(staging / name)
                shutil.rmtree(out / name, ignore_errors=True)
                os.rename(staging / name, out / name)
                shutil.rmtree(staging)
        if self.args.should_save:
            rotate_checkpoints(out, self.args.save_total_limit, {self.state.global_step, self.state.best_global_step})
        self.accelerator.wait_for_everyone()  # what the other processes see next is a checkpoint under its name

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load weights to go on with, under the names that the model has.

        transformers looks in the file for the model's own names, finds none of those under which Qwen2.5-VL and others
        are saved, and goes on with the weights that the run began with.
        """
        if self.is_fsdp_enabled or is_peft_model(self.model):  # whose files have the names
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())

    def _run_epoch(self, **epoch: Any) -> None:
        """Train for an epoch, and not at all where the last step is taken.

        transformers 5.17 takes a step before it looks whether there are any left: a run that was killed behind its last
        checkpoint would have one more than one that never was.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**epoch)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL's own card says less than ours, and is not written in one step with the checkpoint."""


class ReferenceCheckpoints(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer that saves the reference model of the KL term where it is synced (`sync_ref_model`).

    TRL loads the reference from where the model was loaded, also where a run is resumed: the KL term would silently
    pull towards the first model again.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.ref_model is None or not self.args.sync_ref_model:
            return
        weights = self.accelerator.get_state_dict(self.ref_model)  # of ZeRO-3 all processes have a part
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}", REFERENCE)
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(folder, state_dict=weights)


@contextmanager
def reference_from_checkpoint(model: Any, checkpoint: Path | None) -> Iterator[None]:
    """A trainer that is made inside has the reference of a checkpoint, where there is one.

    TRL loads it from where the model's configuration says that the model is from.
    """
    origin = model.config.name_or_path
    if checkpoint is not None and (checkpoint / REFERENCE).is_dir():
        model.config.name_or_path = str(checkpoint / REFERENCE)
    try:
        yield
    finally:
        model.config.name_or_path = origin


class ResumeDataOrder(TrainerCallback):  # type: ignore[misc]
    """Goes on with the order of the epoch in which a run was stopped.

    TRL's RepeatSampler draws the order of every epoch from one generator, which no checkpoint holds, and has no
    `set_epoch`: transformers would ask each later epoch's questions in the order of the first.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any, **kwargs: Any) -> None:
        """Draw what was drawn for the epochs that are complete."""
        batches = train_dataloader.batch_sampler
        while hasattr(batches, "batch_sampler"):  # accelerate's, around torch's, where several processes share them
            batches = batches.batch_sampler
        sampler = batches.sampler
        if sampler.shuffle:
            for _ in range(int(state.epoch or 0)):
                torch.randperm(sampler.num_samples, generator=sampler.generator)


class ScoredBatches(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer with a hook between the scoring of a training batch and its loss."""

    def on_batch_scored(self, batch: dict[str, Any], rewards: list[float]) -> None:
        """Change a batch of this process in place; `rewards` are the weighted sums of all processes' completions."""

    def log_metric(self, name: str, value: float) -> None:
        """Log a number of this batch with the step that it is for."""
        self._metrics["train"][name].append(value)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            scores = zip(*(self._logs["rewards"][name] for name in self.reward_func_names), strict=True)
            weights = self.reward_weights.tolist()
            self.on_batch_scored(
                batch, [sum(weight * score for weight, score in zip(weights, row, strict=True)) for row in scores]
            )
        return batch


class ReadableCompletions(GRPOTrainer):  # type: ignore[misc]
    """A mixin for TRL's trainer: with `log_completions` prompts and completions are logged as text."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, where a conversation is a text with the roles in it."""
        for column in ("prompt", "completion") if self.log_completions else ():
            texts = [conversation_text(one) for one in self._logs[column]]
            self._logs[column].clear()
            self._logs[column].extend(texts)
        super().log(logs, start_time)


def conversation_text(messages: list[dict[str, Any]] | str) -> str:
    """What is said in a conversation, message by message, with `[image]` where one is shown; a text stays as it is."""
    if isinstance(messages, str):
        return messages
    return "\n\n".join(f"{message['role']}: {_said(message.get('content'))}" for message in messages)


def _said(content: list[dict[str, Any]] | str | None) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    return "".join(part["text"] if part["type"] == "text" else f"[{part['type']}] " for part in parts)


class SyncedVLLMGeneration(VLLMGeneration):  # type: ignore[misc]
    """TRL's vLLM, in this process or on a server, with weights that arrive and no stale images."""

    merges: str | None = None  # why an adapter is merged into the weights that are sent; None where it is sent alone
    adapter: Any = None  # the one that vLLM has, as its requests name it

    def _init_vllm(self) -> None:
        self.merges = adapter_obstacle(self)
        if self.merges is not None:
            super()._init_vllm()
            return
        from vllm.config.lora import MaxLoRARanks

        rank = next(most for most in get_args(MaxLoRARanks) if most >= self.model.peft_config[ADAPTER].r)
        taking = partial(vllm_generation.LLM, enable_lora=True, max_loras=1, max_lora_rank=rank)
        with patch.object(vllm_generation, "LLM", taking):
            super()._init_vllm()

    def generate(self, *words: Any, **options: Any) -> Any:
        """TRL's `generate`, with the adapter that was sent last."""
        if self.adapter is None:
            return super().generate(*words, **options)
        with patch.object(self.llm, "generate", partial(self.llm.generate, lora_request=self.adapter)):
            return super().generate(*words, **options)

    def send_adapter(self) -> None:
        """Have the colocated vLLM load the adapter alone, from files in memory.

        It gets a new name each time. Under the old one, vLLM would keep the adapter that it has, and take what it has
        cached of prompts for that of the new one (vLLM #42125).
        """
        from vllm.lora.request import LoRARequest

        number = 1
        if self.adapter is not None:
            number = self.adapter.lora_int_id + 1
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
        with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
            self.model.save_pretrained(folder, selected_adapters=[ADAPTER], save_embedding_layers=False)
            self.adapter = LoRARequest(f"adapter-{number}", number, folder)
            self.llm.llm_engine.add_lora(self.adapter)

    def sync_weights(self) -> None:
        """Give vLLM the trainer's weights; collective over the trainer's processes.

        What the vision tower made of an image stays in vLLM's cache when its weights change. And on a CPU new weights
        do not arrive at all: vLLM has repacked its linear layers and dropped their weights
        (`dispatch_cpu_unquantized_gemm` in its `model_executor/layers/utils.py`), which TRL's way of writing into the
        layers does not expect. vLLM's own `reload_weights` packs them again.
        """
        if self.merges is None:
            self.send_adapter()
            return
        if self.mode == "colocate" and self.accelerator.device.type == "cpu":
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._iter_named_params()})
            self.llm.apply_model(pack_output_layer)
            self.llm.reset_prefix_cache()
        else:
            super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            client = self.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights under the names that vLLM knows, an adapter's merged into a copy of what it adapts.

        TRL merges an adapter into the weights and takes it out again at every step. What that rounds off adds up: in
        bfloat16 the base is a quarter of the adapter's size away from itself after 200 steps, and the adapter that is
        saved was trained on weights that nobody has.
        """
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, LoraLayer)}
        if self._dist.is_fsdp or self._dist.is_zero3 or not layers or not all(map(is_plain, layers.values())):
            yield from super()._iter_named_params()
            return
        for name, value in self.model.named_parameters():
            if self.model.prefix in name or "original_module" in name:
                continue
            weight, stem = value.data, name.removesuffix(".base_layer.weight")
            if stem != name:
                for adapter in layers[stem].active_adapters:
                    weight = weight + layers[stem].get_delta_weight(adapter).to(weight.dtype)
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            yield self._fix_param_name_to_vllm(plain, ["modules_to_save.default."]), weight


def adapter_obstacle(vllm: VLLMGeneration) -> str | None:
    """Why vLLM can't be sent the adapter of a trainer's model alone; None where it can."""
    if not is_peft_model(vllm.model):
        return "there is no adapter"
    obstacles = {
        "a server is sent all weights": vllm.mode == "server",
        # lora/ops/torch_ops/lora_ops.py: sampling takes several times as long (benchmarks/RESULTS.md)
        "vLLM's code for a CPU copies the adapter for every token": vllm.accelerator.device.type == "cpu",
        "vLLM gives up its weights while it sleeps (vllm_enable_sleep_mode)": vllm.enable_sleep_mode,
        "they are split over the processes": vllm._dist.is_fsdp or vllm._dist.is_zero3,
    }
    return next((reason for reason, there in obstacles.items() if there), None) or lora_obstacle(vllm.model)


def lora_obstacle(model: Any) -> str | None:
    """What of an adapter vLLM does not take, but would leave out without an error; None where it takes all of it."""
    if any(value.requires_grad and "lora_" not in name for name, value in model.named_parameters()):
        return "more than the adapter is trained"
    text = set(model.get_base_model().get_decoder().modules())
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    if not all(type(layer) is lora.Linear and is_plain(layer) and layer in text for layer in layers):
        return "vLLM takes plain LoRA on linear layers of the language model"
    config = model.peft_config[ADAPTER]
    if config.rank_pattern or config.alpha_pattern or config.r > LARGEST_RANK:
        return f"vLLM takes one rank for all layers, up to {LARGEST_RANK}"
    return None


def is_plain(layer: Any) -> bool:
    """Whether what a LoRA layer adds is `get_delta_weight` alone: it is not quantised, and no variant such as DoRA."""
    return (
        type(layer).__module__ == LoraLayer.__module__ and not layer.lora_variant and not any(layer.lora_bias.values())
    )


def pack_output_layer(model: Any) -> None:
    """Pack the output layer of vLLM's model for a CPU again.

    Where it shares the embedding's weights, `reload_weights` packs the embedding alone ("Tied parameters" in
    `vllm/model_executor/model_loader/reload/__init__.py`).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


@contextmanager
def engine_for(args: Any, shown: int = 1, images: dict[str, Any] | None = None) -> Iterator[None]:
    """A trainer made inside has `SyncedVLLMGeneration`, and a colocated vLLM of its own precision, seed and images.

    `args` is the trainer's GRPOConfig, `shown` the most images that a question shows, `images` what is changed of the
    model's image processor.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of every change to the number of threads

    def engine(**options: Any) -> Any:
        from vllm import LLM

        # TRL seeds an engine with its number alone: runs with different seeds would sample alike.
        options["seed"] += args.seed * args.world_size
        options |= {"limit_mm_per_prompt": {"image": shown, "video": 0}, "mm_processor_kwargs": images}
        return LLM(**options, dtype=precision(args), enforce_eager=on_cpu)

    with (
        patch.object(grpo_trainer, "VLLMGeneration", SyncedVLLMGeneration),
        patch.object(vllm_generation, "LLM", engine, create=True),
    ):
        yield

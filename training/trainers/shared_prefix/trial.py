"""Before the first step: shared prompts give the numbers of the plain path, on one batch of the run's own questions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl.data_utils import prepare_multimodal_messages

from datagen.hub.generation import FAMILIES
from datagen.interaction import question_images
from datagen.r1_format import completion_of
from training.rollout.parity import is_split, loss_inputs
from training.trainers.shared_prefix.trainer import SharingError
from training.trl_config import precision

PROMPTS = 2  # questions, each with its solution and with the first half of it
# Of log-probabilities in nats on average, and of the gradient's norm as a share. In float32 they differ by 1e-6.
TOLERANCES = {"float32": (1e-3, 1e-3), "bfloat16": (0.05, 0.1), "float16": (0.02, 0.05)}


class SharingTrial(TrainerCallback):  # type: ignore[misc]
    """Runs `trial` before the first step. `trainer` is set behind."""

    trainer: Any

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what was found. Where the numbers differ, the run goes on with the plain path."""
        trainer = self.trainer
        if not trainer.shares_loss:
            return
        try:
            line = trial(trainer)
        except SharingError as error:
            trainer.shares_loss = trainer.shares_generation = False
            line = f"prompts are not shared, which takes longer: {error}"
        if state.is_world_process_zero:
            print(f"preflight: {line}", flush=True)


def trial(trainer: Any) -> str:
    """Compare both paths on a few of the run's questions with their solutions; returns what was found.

    Raises:
        SharingError: where they do not agree.
    """
    rows = trainer.train_dataset.select(range(min(PROMPTS, len(trainer.train_dataset))))
    tokenizer = trainer.processing_class.tokenizer
    solutions = [tokenizer(completion_of(row["solution"]))["input_ids"] for row in rows]
    completions = [part for ids in solutions for part in (ids, ids[: max(1, len(ids) // 2)])]
    prompts = [
        prepare_multimodal_messages(row["prompt"], images=question_images(row)) for row in rows for _ in range(2)
    ]
    inputs = loss_inputs(trainer, prompts, completions)
    group = torch.arange(len(prompts), device=trainer.accelerator.device) // 2
    training = trainer.model.training
    trainer.model.eval()  # without dropout
    try:
        with torch.random.fork_rng():
            plain, norm = measure(trainer, inputs, None)
            try:
                shared, other = measure(trainer, inputs, group)
            except SharingError:
                raise
            except Exception as error:  # of a model that nobody has tried
                if trainer.base_of(trainer.model).config.model_type in FAMILIES:
                    raise
                raise SharingError(f"{type(error).__name__} from this model, which was never tried: {error}") from error
    finally:
        trainer.model.train(training)
    apart = float((plain - shared).abs().sum() / sum(map(len, completions)))
    share = abs(other - norm) / max(norm, 1e-9)
    logprob, gradient = TOLERANCES[precision(trainer.args)]
    found = f"log-probabilities are {apart:.2g} nats apart ({logprob:g} allowed)"
    if norm:
        found += f", gradient norms {share:.2g} of their size ({gradient:g} allowed)"
    if not apart <= logprob or not share <= gradient:
        raise SharingError(found)
    return f"prompts are computed once a group: {found}"


def measure(trainer: Any, inputs: dict[str, Any], group: Tensor | None) -> tuple[Tensor, float]:
    """Log-probabilities of a batch, and the norm of their sum's gradient; 0 where weights are split over processes.

    Prompts are shared where `group` has the prompt of each row.
    """
    split = is_split(trainer)
    model = trainer.model_wrapped if split else trainer.accelerator.unwrap_model(trainer.model)
    shares = trainer.shares_loss
    trainer.shares_loss = group is not None
    try:
        with trainer.groups(group), torch.set_grad_enabled(not split):
            logps, _, _ = trainer._get_per_token_logps_and_entropies(model, **inputs)
    finally:
        trainer.shares_loss = shares
    if split:
        return logps, 0.0
    trained = [value for value in model.parameters() if value.requires_grad]
    gradients = torch.autograd.grad(logps.sum(), trained, allow_unused=True)  # leaves no gradient at the weights
    return logps.detach(), float(torch.stack([one.float().norm() for one in gradients if one is not None]).norm())

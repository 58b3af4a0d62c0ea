"""What of TRL's trainer and of a model's processor is used where they are passed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Processor(Protocol):
    """A processor of transformers: chat template, tokenizer and image processor of a vision-language model."""

    tokenizer: Any
    image_processor: Any
    image_token: str
    image_token_id: int

    def __call__(self, **inputs: Any) -> Any:
        """The tensors that a model is given."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Conversations as texts or token ids."""

    def batch_decode(self, sequences: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """The texts of token ids."""


class GRPOTrainerLike(Protocol):
    """A GRPO trainer as the parity check, rollouts and validation use it; TRL's, or a test's.

    `vllm_generation` and `rollout_func` are there where `use_vllm` is set; `vllm_mode` is `colocate` or `server`.
    """

    model: Any
    model_wrapped: Any
    processing_class: Processor
    args: Any
    accelerator: Any
    train_dataset: Any
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any]
    num_generations: int
    num_generations_eval: int
    max_completion_length: int
    use_vllm: bool
    vllm_mode: str
    vllm_generation: Any
    rollout_func: Callable[[list[Any], Any], dict[str, list[Any]]]
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def log(self, logs: dict[str, float]) -> None:
        """Log numbers with the present step."""

    def _get_per_token_logps_and_entropies(self, model: Any, *inputs: Any, **options: Any) -> tuple[Any, Any, Any]: ...

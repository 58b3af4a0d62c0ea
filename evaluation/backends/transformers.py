"""transformers generates the answers, in this process and in batches, from local files only.

Several questions about one image, and several samples of a question, share what they begin with: the image is processed
and encoded once a batch, and the model reads it once. Answers that have ended are left out of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.hub.chat_template import check_history, check_image_counts, image_placeholder, stop_token_ids
from datagen.hub.checkpoint import load_checkpoint, refusal, silence_transformers
from evaluation.backends.base import Prompt, Sampling, backend_versions

BATCH_SIZE = 128  # prompts at a time, unless --batch-size says otherwise


@dataclass(frozen=True)
class TransformersBackend:
    """A loaded model with its processor; `device` is `cpu` (float32) or `cuda` (bfloat16)."""

    model: Any
    processor: Any
    device: str
    batch_size: int

    def describe(self) -> dict[str, str]:
        """Name, versions, device and dtype."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {**backend_versions("transformers"), "device": self.device, "dtype": dtype}

    def notes(self) -> list[str]:
        """None: every question is asked as it is meant."""
        return []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """(index in `prompts`, what was generated), as each batch is done."""
        for start in range(0, len(prompts), self.batch_size):
            batch = [prompts[i] for i in range(start, min(start + self.batch_size, len(prompts)))]
            decoded = self.processor.tokenizer.batch_decode(self.generate_ids(batch), skip_special_tokens=True)
            yield from enumerate(decoded, start)

    def inputs(self, prompts: Sequence[Prompt]) -> Any:
        """What the model takes for a batch of prompts that all have the opening words, or all lack them.

        On the model's device and padded on the left: `input_ids` and `attention_mask` are (batch, tokens).
        """
        return self._encode(self._texts(prompts), [prompt.images for prompt in prompts])

    def shared_inputs(self, prompts: Sequence[Prompt]) -> tuple[Any, Any, tuple[Any, Any]]:
        """What the model takes for the distinct beginnings of prompts, which of them each prompt has, and the rest.

        A beginning ends with a prompt's last image, and is padded on the left, as in `inputs`. The rest of each prompt
        is ids and mask, (batch, tokens), padded on the left as well.
        """
        import torch

        from datagen.hub.generation import first_rows

        placeholder = image_placeholder(self.processor)
        heads, tails = zip(*(text.rsplit(placeholder, 1) for text in self._texts(prompts)), strict=True)
        numbers: dict[Any, int] = {}
        group = [
            numbers.setdefault((head, *((image.size, image.tobytes()) for image in prompt.images)), len(numbers))
            for head, prompt in zip(heads, prompts, strict=True)
        ]
        first = first_rows(group)
        inputs = self._encode([heads[row] + placeholder for row in first], [prompts[row].images for row in first])
        rest = self.processor.tokenizer(list(tails), add_special_tokens=False, padding=True, return_tensors="pt")
        rest = rest.to(self.model.device)
        return inputs, torch.tensor(group, device=self.model.device), (rest["input_ids"], rest["attention_mask"])

    def _texts(self, prompts: Sequence[Prompt]) -> list[str]:
        (opening,) = {prompt.opening for prompt in prompts}
        template = self.processor.chat_template
        texts: list[str] = self.processor.apply_chat_template(
            [prompt.conversation(lambda image: {"type": "image", "image": image}) for prompt in prompts],
            chat_template=r1_format.with_opening(template) if opening else r1_format.without_opening(template),
            add_generation_prompt=True,
            tokenize=False,
        )
        check_image_counts(texts, [len(prompt.images) for prompt in prompts], self.processor)
        return texts

    def _encode(self, texts: Sequence[str], images: Sequence[Sequence[Any]]) -> Any:
        """As the processor's own `apply_chat_template` does with what it has rendered."""
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        begin = self.processor.tokenizer.bos_token
        if begin is not None and texts[0].startswith(begin):
            options["add_special_tokens"] = False
        return self.processor(text=list(texts), images=[list(some) for some in images], **options).to(self.model.device)

    def generate_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """(batch, new tokens) ids, padding included.

        Where they are sampled, the first prompt seeds the batch.
        """
        import torch

        from datagen.hub.generation import FAMILIES, sample

        if self.model.config.model_type in FAMILIES:
            inputs, group, tails = self.shared_inputs(prompts)
            options = {"custom_generate": partial(sample, group=group, tails=tails)}
            width = inputs["input_ids"].shape[1] + tails[0].shape[1]
        else:
            inputs, options = self.inputs(prompts), {}
            width = inputs["input_ids"].shape[1]
        torch.manual_seed(prompts[0].seed)
        with torch.inference_mode():
            output = self.model.generate(**inputs, **options)
        generated: list[list[int]] = output[:, width:].tolist()
        return generated


def load(folder: Path, sampling: Sampling, batch_size: int, turns: int = 1) -> TransformersBackend:
    """The checkpoint in `folder`, on the GPU where there is one. It says at most `turns` messages in a conversation.

    Raises:
        UserError: where transformers can't load it as a vision-language model with a chat template.
    """
    import torch

    silence_transformers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = load_checkpoint(folder, torch.bfloat16 if device == "cuda" else torch.float32)
    if turns > 1:
        check_history(folder, processor)
    processor.tokenizer.padding_side = "left"
    model.generation_config = generation_config(model, processor, sampling)
    backend = TransformersBackend(model.eval().to(device), processor, device, batch_size)
    check_answers(folder, backend)
    return backend


def check_answers(folder: Path, backend: TransformersBackend) -> None:
    """Check that a checkpoint answers: many settings are read when they are used.

    Raises:
        UserError: where it does not.
    """
    import torch
    from PIL import Image

    image = Image.new("RGB", (64, 64))
    prompts = [Prompt(text, r1_format.make_prompt(text, "3"), [image], opening=True) for text in ("How many?", "Why?")]
    try:
        with torch.inference_mode():
            backend.model.generate(**backend.inputs(prompts), max_new_tokens=1)
    except UserError:
        raise
    except Exception as error:  # every model raises its own
        raise refusal(folder, error) from error


def generation_config(model: Any, processor: Any, sampling: Sampling) -> Any:
    """Transformers' `GenerationConfig`: no vision tokens, greedy or from the model's own distribution.

    It replaces the checkpoint's own, which may have another temperature, and a repetition penalty (Qwen's have both).
    """
    from transformers import GenerationConfig

    random = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        **(random if sampling.temperature else {"do_sample": False}),
        max_new_tokens=sampling.max_new_tokens,
        suppress_tokens=r1_format.vision_token_ids(processor.tokenizer.get_vocab()) or None,
        eos_token_id=stop_token_ids(processor, model.generation_config.eos_token_id),
        pad_token_id=processor.tokenizer.pad_token_id,
    )

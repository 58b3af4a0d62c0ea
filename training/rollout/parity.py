"""Before the first step: that trainer and vLLM read the same prompts, have the same weights, and mean the same.

Sampling and training with two programs fails silently: wrong prompts, stale weights and other image sizes all give
fluent text and a falling reward. Here one batch goes through both sides, as it will in training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback
from trl.data_utils import prepare_multimodal_messages

from datagen.common.errors import UserError
from datagen.hub.chat_template import image_placeholder
from datagen.interaction import question_images
from datagen.r1_format import OPENING, vision_token_ids
from training.rollout.protocols import GRPOTrainerLike, Processor
from training.trl_config import precision

PROMPTS = 4  # questions, each sampled num_generations times
BANNED = -100.0  # the logit bias that makes a token impossible, to one in 10^43
ADVICE = "start with --vllm off, or with --no-preflight to train all the same"


@dataclass(frozen=True)
class Tolerance:
    """How far trainer and vLLM may be apart: in a token's log-probability, and in the mean importance ratio from 1."""

    logprob: float
    ratio: float


# Float32 differs by 0.00003 nats between kernels, a wrong prompt or stale weights by 0.1 and more.
TOLERANCES = {"float32": Tolerance(0.01, 0.01), "bfloat16": Tolerance(0.05, 0.05), "float16": Tolerance(0.02, 0.02)}


@dataclass(frozen=True)
class Agreement:
    """Two sides' log-probabilities of the same tokens: how far apart they are.

    `mean` and `worst` are absolute differences in nats. `ratio` is the mean over tokens of the trainer's probability
    divided by vLLM's; over whole sequences it would scatter with their length.
    """

    tokens: int
    mean: float
    worst: float
    ratio: float


def agreement(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Agreement:
    """The `Agreement` of the trainer's log-probabilities with vLLM's, one list a completion."""
    differences = [a - b for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    if not differences:
        raise ValueError("no token was sampled")
    size = [abs(difference) if math.isfinite(difference) else math.inf for difference in differences]
    ratios = [math.exp(min(difference, 50.0)) for difference in differences]
    count = len(differences)
    return Agreement(count, sum(size) / count, max(size), sum(ratios) / count)


def check_agreement(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], tokens: Sequence[Sequence[str]], dtype: str
) -> Agreement:
    """The `Agreement`, where it is within the tolerance of `dtype`; `tokens` are the sampled tokens' texts.

    Raises:
        UserError: where it is not, with the first token that is further off.
    """
    agreed, allowed = agreement(ours, theirs), TOLERANCES[dtype]
    if agreed.mean <= allowed.logprob and abs(agreed.ratio - 1) <= allowed.ratio:
        return agreed
    row, column, one, other = first_beyond(ours, theirs, allowed.logprob)
    raise UserError(
        f"trainer and vLLM give the same tokens other log-probabilities: {agreed.mean:.3f} nats apart on average "
        f"({allowed.logprob:g} is allowed in {dtype}), mean importance ratio {agreed.ratio:.3f} "
        f"(1 ± {allowed.ratio:g}); first in completion {row + 1} at token {column + 1}, {tokens[row][column]!r}: "
        f"{one:.3f} in the trainer, {other:.3f} in vLLM; {ADVICE}"
    )


def first_beyond(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], allowed: float
) -> tuple[int, int, float, float]:
    """`(completion, token, ours, theirs)` of the first log-probabilities that are further apart than allowed."""
    for row, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for column, (a, b) in enumerate(zip(one, other, strict=True)):
            if not abs(a - b) <= allowed:
                return row, column, a, b
    raise ValueError("all are within what is allowed")


def check_same_prompts(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], processor: Processor) -> None:
    """Check that vLLM has read the trainer's tokens.

    Raises:
        UserError: where it has not, with the first difference and each side's number of image tokens.
    """
    for one, other in zip(ours, theirs, strict=True):
        if list(one) == list(other):
            continue
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        words = [
            repr(processor.tokenizer.convert_ids_to_tokens(ids[at])) if at < len(ids) else "nothing more"
            for ids in (one, other)
        ]
        images = [list(ids).count(processor.image_token_id) for ids in (one, other)]
        raise UserError(
            f"vLLM reads another prompt than the trainer: {len(one)} tokens in the trainer ({images[0]} of images), "
            f"{len(other)} in vLLM ({images[1]}); at token {at + 1} it is {words[0]} in the trainer and {words[1]} "
            f"in vLLM: the image processor, the tokenizer or the chat template differs; {ADVICE}"
        )


def check_text(text: str, placeholder: str, images: int) -> None:
    """Check a prompt's text as the chat template renders it: its images and the opening words are in it once each.

    Raises:
        UserError: where they are not.
    """
    if text.count(placeholder) != images:
        raise UserError(
            f"the chat template puts {text.count(placeholder)} image placeholders into a prompt with {images}: fix it"
        )
    if text.count(OPENING) != 1 or not text.endswith(OPENING):
        position = "not at the end" if text.count(OPENING) == 1 else f"{text.count(OPENING)} times"
        raise UserError(
            f"the opening words {OPENING!r} are in a prompt {position}, and belong at its end once; it ends with "
            f"{text[-60:]!r}: fix the chat template"
        )


def check_banned(tokens: Mapping[int, str], suppressed: Sequence[int], bias: Mapping[Any, float] | None) -> None:
    """Check that no image or vision token can be sampled: by transformers, or by vLLM where `bias` is its logit bias.

    Raises:
        UserError: where one can. It would claim an image that is not there.
    """
    for token, name in tokens.items():
        banned = token in suppressed if bias is None else bias.get(token, bias.get(str(token), 0.0)) <= BANNED
        if not banned:
            raise UserError(
                f"{name} could be sampled, and the loss would look for its image: leave "
                f"{'suppress_tokens' if bias is None else 'logit_bias'} out of generation_kwargs"
            )


def banned_tokens(processor: Processor) -> dict[int, str]:
    """The tokens that stand for images, by id: those of the known families, and what processor and tokenizer name."""
    ids = set(vision_token_ids(processor.tokenizer.get_vocab()))
    for one in (processor, processor.tokenizer):
        ids |= {token for name in ("image_token_id", "video_token_id") if (token := getattr(one, name, None))}
    return {token: processor.tokenizer.convert_ids_to_tokens(token) for token in sorted(ids)}


class ParityCheck(TrainerCallback):  # type: ignore[misc]
    """Runs `check` before the first step, when the model is where it will be trained. `trainer` is set behind."""

    trainer: GRPOTrainerLike

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check, and say what was checked.

        Raises:
            UserError: where something is not as it must be.
        """
        for line in check(self.trainer):
            if state.is_world_process_zero:
                print(f"preflight: {line}", flush=True)


def check(trainer: GRPOTrainerLike) -> list[str]:
    """What was checked of a GRPO trainer, a line each.

    Raises:
        UserError: for the first thing that is not as it must be.
    """
    processor = trainer.processing_class
    rows = trainer.train_dataset.select(range(min(PROMPTS, len(trainer.train_dataset))))
    prompts = [prepare_multimodal_messages(row["prompt"], images=question_images(row)) for row in rows]
    placeholder = image_placeholder(processor)
    for prompt, text in zip(prompts, render(prompts, trainer, tokenize=False), strict=True):
        check_text(text, placeholder, len(images_of(prompt)))
    given = trainer.args.generation_kwargs or {}
    bias = given.get("logit_bias", {}) if trainer.use_vllm else None
    check_banned(banned_tokens(processor), given.get("suppress_tokens", ()), bias)
    lines = ["one placeholder an image, the opening words once, no vision token can be sampled"]
    if trainer.use_vllm:
        if trainer.vllm_mode == "server":
            if trainer.accelerator.is_main_process:
                check_server_images(trainer, prompts)
            lines.append("vLLM's server makes as many tokens of an image as the trainer, and is sent its token ids")
        lines += check_vllm(trainer, [prompt for prompt in prompts for _ in range(trainer.num_generations)])
    return lines


def check_server_images(trainer: GRPOTrainerLike, prompts: list[Any]) -> None:
    """Check that vLLM's server makes as many tokens of an image as the trainer; a question with others would end it.

    Raises:
        UserError: where it does not.
    """
    features = trainer.vllm_generation.vllm_client.image_features([images_of(prompt) for prompt in prompts])
    read = render(prompts, trainer, tokenize=True, return_dict=True)["input_ids"]
    for ids, feature in zip(read, features, strict=True):
        theirs = sum(placeholder["length"] for placeholder in feature["mm_placeholders"]["image"])
        if (ours := ids.count(trainer.processing_class.image_token_id)) != theirs:
            raise UserError(
                f"an image is {ours} tokens in the trainer and {theirs} in vLLM's server: start it with the same "
                "model, and without options for the images' size"
            )


def check_vllm(trainer: GRPOTrainerLike, prompts: list[Any]) -> list[str]:
    """What was checked of a trainer's vLLM, a line each. The weights and the state of chance are left as they were.

    Raises:
        UserError: where trainer and vLLM do not agree.
    """
    training = trainer.model.training
    with torch.random.fork_rng(), torch.no_grad():
        completions, before, agreed = sample(trainer, prompts)
        allowed = TOLERANCES[precision(trainer.args)]
        lines = [f"trainer and vLLM read the same tokens in {len(prompts)} prompts"] * (trainer.vllm_mode == "colocate")
        lines.append(
            f"log-probabilities of {agreed.tokens} sampled tokens are {agreed.mean:.2g} nats apart on average "
            f"({allowed.logprob:g} allowed), at most {agreed.worst:.2g}; mean importance ratio {agreed.ratio:.4f}"
        )
        if is_split(trainer):
            lines.append("not checked with weights that are split (ZeRO-3, FSDP2): that changed ones arrive in vLLM")
        else:
            lines.append(check_weights_arrive(trainer, prompts, completions, before))
    trainer.model.train(training)
    return lines


def is_split(trainer: GRPOTrainerLike) -> bool:
    """Whether each process holds a part of the weights: with ZeRO-3 and FSDP. With ZeRO-2 all have them whole."""
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return bool(trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))


def sample(trainer: GRPOTrainerLike, prompts: list[Any]) -> tuple[list[list[int]], list[list[float]], Agreement]:
    """VLLM's completions with the trainer's present weights, the trainer's log-probabilities, and how they agree.

    Raises:
        UserError: where they do not.
    """
    trainer.vllm_generation.sync_weights()
    trainer.model.train()  # as many completions a question as in training
    answers = trainer.rollout_func(prompts, trainer)
    completions = answers["completion_ids"]
    ours = logprobs(trainer, prompts, completions)
    words = [trainer.processing_class.tokenizer.convert_ids_to_tokens(ids) for ids in completions]
    theirs = [[math.nan if value is None else value for value in row] for row in answers["logprobs"]]
    return completions, ours, check_agreement(ours, theirs, words, precision(trainer.args))


def check_weights_arrive(
    trainer: GRPOTrainerLike, prompts: list[Any], completions: list[list[int]], before: list[list[float]]
) -> str:
    """Change what is trained, an adapter or all weights, and check that vLLM samples from the changed model.

    A fresh adapter changes nothing: only so can one that vLLM never gets be told from one it has. The weights are put
    back. Returns what was checked.

    Raises:
        UserError: where vLLM answers with other weights.
    """
    wanted = 10 * TOLERANCES[precision(trainer.args)].logprob
    for exponent in range(8):
        with changed_weights(trainer.model, 0.01 * 2**exponent) as count:
            moved = agreement(logprobs(trainer, prompts, completions), before).mean
            moved = trainer.accelerator.gather(torch.tensor([moved], device=trainer.accelerator.device)).mean().item()
            if moved < wanted:
                continue
            try:
                _, _, agreed = sample(trainer, prompts)
            except UserError as error:
                raise UserError(f"changed weights do not arrive in vLLM: {error}") from error
        trainer.vllm_generation.sync_weights()
        kind = "adapter" if is_peft_model(trainer.model) else "model"
        return (
            f"vLLM samples from the {kind} in training: with {count} weights changed, log-probabilities moved by "
            f"{moved:.2g} nats and stay {agreed.mean:.2g} apart"
        )
    raise UserError(f"no change to the weights in training changes an answer: are the right ones trained? {ADVICE}")


@contextmanager
def changed_weights(model: Any, size: float) -> Iterator[int]:
    """Inside, one trained parameter of each kind (in one layer) has noise of `size` of its own; gives their number."""
    kinds = {re.sub(r"\.\d+\.", ".*.", name): value for name, value in model.named_parameters() if value.requires_grad}
    saved = {kind: value.detach().clone() for kind, value in kinds.items()}
    chance = torch.Generator().manual_seed(0)  # the same on every process
    for kind, value in kinds.items():
        rms = saved[kind].float().square().mean().sqrt().item()
        noise = torch.randn(value.shape, generator=chance) * size * (rms or 1.0)  # half of a fresh adapter is zero
        value.data.add_(noise.to(value.device, value.dtype))
    try:
        yield len(kinds)
    finally:
        for kind, value in kinds.items():
            value.data.copy_(saved[kind])


def logprobs(trainer: GRPOTrainerLike, prompts: list[Any], completions: list[list[int]]) -> list[list[float]]:
    """The trainer's log-probability of each token of the completions, computed as for its loss, without dropout."""
    trainer.model.eval()
    inputs = loss_inputs(trainer, prompts, completions)
    size = trainer.args.per_device_train_batch_size
    values, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, **inputs, batch_size=size)
    return [row[: len(sampled)] for row, sampled in zip(values.float().tolist(), completions, strict=True)]


def loss_inputs(trainer: GRPOTrainerLike, prompts: list[Any], completions: list[list[int]]) -> dict[str, Any]:
    """What TRL computes log-probabilities from, of conversations with their images and of the completions' tokens."""
    processor, device = trainer.processing_class, trainer.accelerator.device
    inputs = processor(
        images=[images_of(prompt) for prompt in prompts],
        text=render(prompts, trainer, tokenize=False),
        padding=True,
        return_tensors="pt",
    ).to(device)
    width = max(map(len, completions))
    pad = processor.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in completions], device=device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions], device=device)
    kinds = {
        name: torch.cat([inputs.pop(name), torch.zeros_like(ids)], dim=1)
        for name in ("token_type_ids", "mm_token_type_ids")
        if name in inputs
    }
    return {
        "input_ids": torch.cat([inputs.pop("input_ids"), ids], dim=1),
        "attention_mask": torch.cat([inputs.pop("attention_mask"), real], dim=1),
        "logits_to_keep": width,
        "num_images": [len(images_of(prompt)) for prompt in prompts],
        **kinds,
        **inputs,
    }


def render(prompts: list[Any], trainer: GRPOTrainerLike, **options: Any) -> Any:
    """The conversations in the chat template that the trainer uses; `options` are `apply_chat_template`'s."""
    return trainer.processing_class.apply_chat_template(
        prompts,
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        **trainer.chat_template_kwargs,
        **options,
    )


def images_of(prompt: list[dict[str, Any]]) -> list[Any]:
    """The images in a conversation, in order."""
    return [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]

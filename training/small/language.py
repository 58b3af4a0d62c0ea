"""Stage 2 of the small model: it learns to read aloud and to add, as any base model does before it meets R1.

Three kinds of plain chat, no reasoning tags and none of the tasks' questions. Under an image "Read the digits.",
answered with the digits from lowest to highest, or "Read and add the digits.", which goes on with one addition after
the other and ends with the sum; and "Add 9, 3, 8." without an image, so that it learns to work with its own words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import BatchFeature, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from datagen.glyphs import Glyphs
from datagen.tasks.digits import additions
from training.small.architecture import CHAT_TEMPLATE
from training.small.reading import NOTHING, batches

PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


def chat(processor: Qwen2_5_VLProcessor, questions: list[list[dict[str, Any]]], answers: list[str]) -> BatchFeature:
    """A padded batch whose `labels` are the answers' tokens and the end of the turn; all else is -100."""
    users = [[{"role": "user", "content": content}] for content in questions]
    render = processor.tokenizer.apply_chat_template
    prompts = render(users, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False)
    texts = [f"{prompt}{answer}<|im_end|>" for prompt, answer in zip(prompts, answers, strict=True)]
    images = [part["image"] for content in questions for part in content if part["type"] == "image"] or None
    batch = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    behind = [len(processor.tokenizer(f"{answer}<|im_end|>")["input_ids"]) for answer in answers]
    columns = torch.arange(batch["input_ids"].shape[1])
    answered = columns[None] >= columns.numel() - torch.tensor(behind)[:, None]
    batch["labels"] = torch.where(answered, batch["input_ids"], -100)
    return batch


def readings(processor: Qwen2_5_VLProcessor, images: Tensor, cells: Tensor, *, adding: int = 0) -> BatchFeature:
    """Images (n, 84, 84, 3) with the digits of `cells` (n, 9), to be read aloud; the first `adding` to be added too."""
    digits = [sorted(row[row != NOTHING].tolist()) for row in cells]
    requests = ["Read and add the digits."] * adding + ["Read the digits."] * (len(images) - adding)
    questions = [
        [{"type": "image", "image": image}, {"type": "text", "text": text}]
        for image, text in zip(images.permute(0, 3, 1, 2), requests, strict=True)
    ]
    answers = [added(row) if i < adding else spoken(row) for i, row in enumerate(digits)]
    return chat(processor, questions, answers)


def sums(processor: Qwen2_5_VLProcessor, rng: random.Random, size: int) -> BatchFeature:
    """One to three digits in any order, to be sorted and added without an image."""
    rows = [rng.choices(range(10), k=rng.randint(1, 3)) for _ in range(size)]
    questions = [[{"type": "text", "text": f"Add {spoken(row)}."}] for row in rows]
    return chat(processor, questions, [added(sorted(row)) for row in rows])


def added(digits: list[int]) -> str:
    """The digits with commas between them, one addition after the other, and the sum again."""
    return f"{spoken(digits)}. {additions(digits)}".rstrip() + f" Sum {sum(digits)}."


def spoken(digits: list[int]) -> str:
    """The digits with commas between them."""
    return ", ".join(map(str, digits))


def learn_to_speak(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    train: Glyphs,
    *,
    steps: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
) -> None:
    """Train the whole model, `batch` chats with an image (half of them to be added) and `batch` without one a step.

    The glyphs are distorted as in stage 1.
    """
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    rng = random.Random(seed)  # noqa: S311
    pictures: Iterator[tuple[Tensor, Tensor]] = batches(train, batch, seed + 1)
    progress = tqdm(range(steps), desc="speaking")
    for _ in progress:
        seen, unseen = readings(processor, *next(pictures), adding=batch // 2), sums(processor, rng, batch)
        losses = [model(**part).loss for part in (seen, unseen)]
        torch.autograd.backward(losses)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(reading=f"{losses[0].item():.3f}", adding=f"{losses[1].item():.3f}")


@torch.no_grad()
def read_aloud(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, images: Tensor) -> list[str]:
    """What the model answers, greedily, to "Read the digits." under each image (n, 84, 84, 3)."""
    batch = readings(processor, images, torch.full((len(images), 1), NOTHING))
    prompt = {name: value[:, :-1] for name, value in batch.items() if name in PER_TOKEN}  # without the end of turn
    vision = {name: value for name, value in batch.items() if name not in (*PER_TOKEN, "labels")}
    spoken = model.generate(**prompt, **vision, do_sample=False, max_new_tokens=16)
    answers: list[str] = processor.batch_decode(spoken[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def transcription_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, glyphs: Glyphs, images: int = 1024
) -> tuple[float, float]:
    """Images of one to four undistorted glyphs read aloud: `(share of digits named, share of images all right)`."""
    pictures, cells = next(batches(glyphs, images, seed=2, strength=0.0))
    truth = [sorted(row[row != NOTHING].tolist()) for row in cells]
    said = read_aloud(model, processor, pictures)
    named = sum(
        min(text.count(str(d)), digits.count(d)) for text, digits in zip(said, truth, strict=True) for d in set(digits)
    )
    exact = sum(text == spoken(digits) for text, digits in zip(said, truth, strict=True))
    return named / sum(map(len, truth)), exact / images

"""The last stage of the small model: it learns to say what it sees, to add, and to look up, before it meets R1.

Plain chats, no reasoning tags and none of the tasks' questions. Under an image of digits "Read the digits.", answered
with the digits from lowest to highest, or "Read and add the digits.", which goes on with one addition after the other
and ends with the sum. Under a decoder "Look up x q a.", answered "x = c, q = a, a = t.", or "Look up and join x q a.",
which goes on "c a t. cat": the letters are random, there are no words. And "Add 9, 3, 8." and "Join c a t." without an
image, so that it learns to work with its own words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import BatchFeature, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from datagen.r1_format import spell_out
from datagen.sources.mnist import DigitImages
from datagen.sources.vocabulary import ALPHABETS
from datagen.tasks.digits import additions
from datagen.tasks.words import lookup_trace
from training.builtin_models.architecture import CHAT_TEMPLATE
from training.builtin_models.cipher_tables import Decoders, decoders
from training.builtin_models.reading import NOTHING, batches

READ, ADD, LOOK_UP, DECODE = "Read the digits.", "Read and add the digits.", "Look up", "Look up and join"
AROUND = ("", ". ", ". ", "")  # what stands around the parts of an answer
LONGEST = 17  # characters: three words of five letters
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


def under(image: Tensor, text: str) -> list[dict[str, Any]]:
    """The content of a question about an image (h, w, 3)."""
    return [{"type": "image", "image": image.permute(2, 0, 1)}, {"type": "text", "text": text}]


def readings(processor: Qwen2_5_VLProcessor, images: Tensor, cells: Tensor, *, adding: int = 0) -> BatchFeature:
    """Images (n, 84, 84, 3) with the digits of `cells` (n, 9), to be read aloud; the first `adding` to be added too."""
    digits = [sorted(row[row != NOTHING].tolist()) for row in cells]
    requests = [ADD] * adding + [READ] * (len(images) - adding)
    questions = [under(image, text) for image, text in zip(images, requests, strict=True)]
    answers = [added(row) if i < adding else spoken(row) for i, row in enumerate(digits)]
    return chat(processor, questions, answers)


def sums(processor: Qwen2_5_VLProcessor, rng: random.Random, size: int) -> BatchFeature:
    """One to three digits in any order, to be sorted and added without an image."""
    rows = [rng.choices(range(10), k=rng.randint(1, 3)) for _ in range(size)]
    questions = [[{"type": "text", "text": f"Add {spoken(row)}."}] for row in rows]
    return chat(processor, questions, [added(sorted(row)) for row in rows])


def lookups(
    processor: Qwen2_5_VLProcessor, rng: np.random.Generator, shown: Decoders, longest: int, *, joining: int = 0
) -> BatchFeature:
    """Random letters to look up in each decoder; those of the first `joining` to be joined to words too."""
    hidden = [ciphered(rng, key, longest) for key in shown.keys]
    requests = [DECODE] * joining + [LOOK_UP] * (len(hidden) - joining)
    questions = [
        under(image, f"{request} {spell_out(one['coded_message'])}.")
        for image, request, one in zip(shown.images, requests, hidden, strict=True)
    ]
    answers = [decoded(one) if i < joining else f"{lookup_trace(one)}." for i, one in enumerate(hidden)]
    return chat(processor, questions, answers)


def decoded(example: Mapping[str, str], around: tuple[str, str, str, str] = AROUND) -> str:
    """Every coded character with what it stands for, the characters found, and the message.

    `around` is what stands before, between and behind these three.
    """
    first, second, third, last = around
    message = example["message"]
    return f"{first}{lookup_trace(example)}{second}{spell_out(message)}{third}{message}{last}"


def joins(processor: Qwen2_5_VLProcessor, rng: np.random.Generator, size: int, longest: int) -> BatchFeature:
    """Random letters to be joined to words without an image."""
    messages = [random_message(rng, ALPHABETS[26], longest) for _ in range(size)]
    questions = [[{"type": "text", "text": f"Join {spell_out(message)}."}] for message in messages]
    return chat(processor, questions, messages)


def ciphered(rng: np.random.Generator, key: Mapping[str, str], longest: int) -> dict[str, str]:
    """A random message, plain and coded, as the columns of a dataset have it."""
    coded = random_message(rng, "".join(key), min(longest, 2 * len(key))).replace(" ", "_")
    return {"coded_message": coded, "message": "".join({"_": " ", **key}[letter] for letter in coded)}


def random_message(rng: np.random.Generator, letters: str, longest: int) -> str:
    """One to `longest` random letters, with a space in place of some, but for the first and the last."""
    message = rng.choice(list(letters), size=rng.integers(1, longest, endpoint=True))
    for place in rng.integers(1, 100, size=2):  # of which most are behind the message's end
        if place < len(message) - 1:
            message[place] = " "
    return "".join(message)


def added(digits: list[int]) -> str:
    """The digits with commas between them, one addition after the other, and the sum again."""
    return f"{spoken(digits)}. {additions(digits)}".rstrip() + f" Sum {sum(digits)}."


def spoken(digits: list[int]) -> str:
    """The digits with commas between them."""
    return ", ".join(map(str, digits))


def learn_to_speak(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    train: DigitImages,
    *,
    steps: int,
    seed: int,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
    whole: bool = False,
) -> None:
    """Train the language model, a step on `batch` images of digits, `batch` decoders and `batch` chats without one.

    Where the `whole` model is trained, the vision tower too, messages are long from the start. Glyphs are distorted as
    they were for the tower.
    """
    model.model.visual.requires_grad_(whole)
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    rng = random.Random(seed)  # noqa: S311
    pictures: Iterator[tuple[Tensor, Tensor]] = batches(train, batch, seed + 1)
    tables, generator = decoders(batch, seed + 1), np.random.default_rng(seed)
    progress = tqdm(range(steps), desc="speaking")
    for step in progress:
        longest = LONGEST if whole else length_at(step / steps)
        parts = {
            "reading": readings(processor, *next(pictures), adding=batch // 2),
            "adding": sums(processor, rng, batch // 2),
            "looking_up": lookups(processor, generator, next(tables), longest, joining=batch // 2),
            "joining": joins(processor, generator, batch // 2, longest),
        }
        losses = {name: model(**part).loss for name, part in parts.items()}
        torch.autograd.backward(list(losses.values()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix({name: f"{loss.item():.3f}" for name, loss in losses.items()}, longest=longest)


def length_at(progress: float) -> int:
    """The longest message at a point of training from 0 to 1: three letters until 0.2, the longest from 0.7 on.

    With long ones from the start looking up is never learned: what follows is still unknown in most places.
    """
    return round(3 + (LONGEST - 3) * min(1.0, max(0.0, (progress - 0.2) / 0.5)))


@torch.no_grad()
def answers_to(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    images: Tensor,
    requests: list[str],
    most: int,
) -> list[str]:
    """What the model answers, greedily and in at most `most` tokens, to a request under each image (n, h, w, 3)."""
    batch = chat(
        processor, [under(image, text) for image, text in zip(images, requests, strict=True)], [""] * len(images)
    )
    prompt = {name: value[:, :-1] for name, value in batch.items() if name in PER_TOKEN}  # without the end of turn
    vision = {name: value for name, value in batch.items() if name not in (*PER_TOKEN, "labels")}
    spoken = model.generate(**prompt, **vision, do_sample=False, max_new_tokens=most)
    answers: list[str] = processor.batch_decode(spoken[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def transcription_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, glyphs: DigitImages, images: int = 1024
) -> tuple[float, float]:
    """Images of one to four undistorted glyphs read aloud: `(share of digits named, share of images all right)`."""
    pictures, cells = next(batches(glyphs, images, seed=2, strength=0.0))
    truth = [sorted(row[row != NOTHING].tolist()) for row in cells]
    said = answers_to(model, processor, pictures, [READ] * images, 16)
    named = sum(
        min(text.count(str(d)), digits.count(d)) for text, digits in zip(said, truth, strict=True) for d in set(digits)
    )
    exact = sum(text == spoken(digits) for text, digits in zip(said, truth, strict=True))
    return named / sum(map(len, truth)), exact / images


def decoding_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, letters: int, images: int = 256
) -> float:
    """Share of random messages (up to 12 characters) decoded without an error, with keys of the `test` split."""
    shown = next(decoders(images, seed=2, split="test", letters=letters))
    rng = np.random.default_rng(2)
    hidden = [ciphered(rng, key, 12) for key in shown.keys]
    said = answers_to(
        model, processor, shown.images, [f"{DECODE} {spell_out(one['coded_message'])}." for one in hidden], 80
    )
    return sum(text == decoded(one) for text, one in zip(said, hidden, strict=True)) / images

"""Making the built-in models, from nothing but our own data: `python -m training.builtin_models.make --out DIR`.

The vision tower learns to read digits, then decoders of ciphers beside them; the language model learns to read aloud,
to add, to look letters up and to join them; at last both are trained together. All of it uses glyphs and keys of the
`train` split alone, and no words. It never sees a question of the tasks, the R1 format or a trace of reasoning.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from datagen.common.errors import Parser, UserError, run_command, writable_folder
from datagen.common.files import RECORD, write_json, write_text
from datagen.common.options import integer
from datagen.common.versions import installed_versions
from datagen.hub.cards import render
from datagen.r1_format import vision_token_ids
from datagen.sources.mnist import DigitImages, load_digits
from training.builtin_models.architecture import make_model, make_processor
from training.builtin_models.language import decoding_accuracy, learn_to_speak, transcription_accuracy
from training.builtin_models.reading import digit_accuracy, learn_to_read, letter_accuracy

PACKAGES = ("r1vlm", "torch", "transformers", "trl", "accelerate", "datasets", "numpy")
SHOWN = "Pretrained to read digits aloud, to add, and to look letters up in decoders, without a trace."


def make(
    out: Path,
    *,
    reading_steps: int,
    letters_steps: int,
    speaking_steps: int,
    whole_steps: int,
    seed: int,
    batch: int,
) -> dict[str, Any]:
    """Make the model and write it to `out`, with its card; returns its record.

    A stage that is complete is kept in `OUT.partial`, so that a run that was killed goes on with the next one.
    """
    if out.exists():
        raise UserError(f"{out} is there already: name another folder with --out")
    glyphs = load_digits("mnist-5k")
    steps = {"reading_steps": reading_steps, "letters_steps": letters_steps}
    steps |= {"speaking_steps": speaking_steps, "whole_steps": whole_steps}
    settings = {**steps, "seed": seed, "batch": batch}
    partial = out.with_name(out.name + ".partial")
    note = partial / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise UserError(f"{partial} was begun with other settings: delete it, or name another folder with --out")
    write_json(note, settings)
    processor = make_processor()
    torch.manual_seed(seed)
    model = make_model(processor)
    model.generation_config.suppress_tokens = vision_token_ids(processor.tokenizer.get_vocab())
    seconds = {}
    train, validation = glyphs.of_split("train"), glyphs.of_split("validation")

    def read() -> None:
        learn_to_read(model, processor, train, validation, steps=reading_steps, seed=seed, batch=batch)

    def read_letters() -> None:
        more: dict[str, Any] = {"tables": batch // 4, "learning_rate": 1e-3}
        learn_to_read(model, processor, train, validation, steps=letters_steps, seed=seed + 1, batch=batch // 2, **more)

    def speak() -> None:
        learn_to_speak(model, processor, train, steps=speaking_steps, seed=seed, batch=batch // 2)

    def polish() -> None:
        more: dict[str, Any] = {"whole": True, "learning_rate": 5e-4}
        learn_to_speak(model, processor, train, steps=whole_steps, seed=seed + 1, batch=batch // 2, **more)

    for name, work in (("reading", read), ("letters", read_letters), ("speaking", speak), ("whole", polish)):
        seconds[name] = stage(partial / name, model, work)
    versions = installed_versions(PACKAGES)
    record = {"stage": "base", "shown": SHOWN, "settings": settings, "seconds": seconds, "versions": versions}
    record["measured"] = measure(model, processor, glyphs)
    finished = partial / "model"
    model.save_pretrained(finished)
    processor.save_pretrained(finished)
    write_json(finished / RECORD, record)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_text(finished / "README.md", render("small.md.jinja", **record, parameters=parameters))
    os.rename(finished, out)
    shutil.rmtree(partial)
    return record


def stage(folder: Path, model: Any, work: Callable[[], None]) -> float:
    """Do a stage and keep its weights in `folder`, or load them from there; returns the seconds it took."""
    note = folder / "seconds.json"
    if folder.is_dir():
        model.load_state_dict(AutoModelForImageTextToText.from_pretrained(folder).state_dict())
        return float(json.loads(note.read_text()))
    started = time.monotonic()
    work()
    unfinished = folder.with_name(f".{folder.name}")
    model.save_pretrained(unfinished)
    write_json(unfinished / note.name, round(time.monotonic() - started))
    os.rename(unfinished, folder)
    return float(json.loads(note.read_text()))


def measure(model: Any, processor: Any, glyphs: DigitImages) -> dict[str, float]:
    """How well unseen glyphs (1,024 images of one to four) are read, and letters in decoders with unseen keys."""
    unseen = glyphs.of_split("test")
    named, exact = transcription_accuracy(model, processor, unseen)
    letters, found = letter_accuracy(model, processor, "test")
    return {
        "digits_named_by_the_vision_tower": digit_accuracy(model, processor, unseen),
        "digits_read_aloud": named,
        "images_read_aloud_without_error": exact,
        "letters_named_by_the_vision_tower": letters,
        "plain_letters_found_by_the_vision_tower": found,
        **{f"messages_decoded_of_{size}_letters": decoding_accuracy(model, processor, size) for size in (8, 26)},
    }


def command() -> None:
    """`python -m training.builtin_models.make`."""
    parser = Parser(prog="training.builtin_models.make", description="Make the small model that is built in.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--reading-steps", type=integer(1), default=4500, help="of reading digits [4500]")
    parser.add_argument("--letters-steps", type=integer(1), default=700, help="of reading decoders too [700]")
    parser.add_argument("--speaking-steps", type=integer(1), default=1500, help="of the language model [1500]")
    parser.add_argument("--whole-steps", type=integer(1), default=400, help="of both together [400]")
    parser.add_argument(
        "--batch", type=integer(4), default=128, help="images a step of reading, twice the later ones' [128]"
    )
    parser.add_argument("--seed", type=integer(0), default=0, help="[0]")
    given: argparse.Namespace = parser.parse_args()
    record = make(writable_folder(given.out), **{name: n for name, n in vars(given).items() if name != "out"})
    print(f"{given.out}: {record['measured']}")


if __name__ == "__main__":
    run_command("training.builtin_models.make", command)

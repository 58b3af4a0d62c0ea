"""Making the built-in models, from nothing but our own data: `python -m training.builtin_models.make --out DIR`.

The vision tower learns to read digits, then decoders of ciphers beside them; the language model learns to read aloud,
to add, to look letters up and to join them; at last both are trained together. All of it uses glyphs and keys of the
`train` split alone, and no words. It never sees a question of the tasks, the R1 format or a trace of reasoning.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from transformers import AutoModelForImageTextToText
from typer import Option

from datagen.common.command_line import APP, run_app
from datagen.common.errors import UserError, writable_folder
from datagen.common.files import RECORD, write_json, write_text
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

    Raises:
        UserError: where `out` is there already, or was begun with other settings.
    """
    glyphs = load_digits("mnist-5k")
    steps = {"reading_steps": reading_steps, "letters_steps": letters_steps}
    steps |= {"speaking_steps": speaking_steps, "whole_steps": whole_steps}
    settings = {**steps, "seed": seed, "batch": batch}
    partial = begin(out, settings)
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
    finish(partial, out, model, processor, record)
    return record


def begin(out: Path, settings: dict[str, Any]) -> Path:
    """The folder `OUT.partial`, in which the stages of a model are kept until it is whole.

    Raises:
        UserError: where `out` is there already, or was begun with other settings.
    """
    if out.exists():
        raise UserError(f"{out} is there already: name another folder with --out")
    partial = out.with_name(out.name + ".partial")
    note = partial / "settings.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise UserError(f"{partial} was begun with other settings: delete it, or name another folder with --out")
    write_json(note, settings)
    return partial


def finish(partial: Path, out: Path, model: Any, processor: Any, record: dict[str, Any]) -> None:
    """Write a model that is whole to `out`, with its record and its card, and remove what was kept of its stages."""
    finished = partial / "model"
    model.save_pretrained(finished)
    processor.save_pretrained(finished)
    write_json(finished / RECORD, record)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_text(finished / "README.md", render("small.md.jinja", **record, parameters=parameters))
    os.rename(finished, out)
    shutil.rmtree(partial)


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


app = typer.Typer(**APP | {"add_completion": False})


@app.command()
def command(
    *,
    out: Annotated[Path, Option(metavar="DIR", help="Folder to write.", show_default=False)],
    reading_steps: Annotated[int, Option(min=1, metavar="N", help="Learn to read digits for N steps.")] = 4500,
    letters_steps: Annotated[
        int, Option(min=1, metavar="N", help="Learn to read cipher tables too for N steps.")
    ] = 700,
    speaking_steps: Annotated[int, Option(min=1, metavar="N", help="Train the language model for N steps.")] = 1500,
    whole_steps: Annotated[int, Option(min=1, metavar="N", help="Train both together for N steps.")] = 400,
    batch: Annotated[
        int, Option(min=4, metavar="N", help="Read N images a step; later stages take half of them.")
    ] = 128,
    seed: Annotated[int, Option(min=0, metavar="N", help="Draw and initialize from this seed.")] = 0,
) -> None:
    """Make the small model that is built in."""
    record = make(
        writable_folder(out),
        reading_steps=reading_steps,
        letters_steps=letters_steps,
        speaking_steps=speaking_steps,
        whole_steps=whole_steps,
        batch=batch,
        seed=seed,
    )
    print(f"{out}: {record['measured']}")


def main() -> NoReturn:
    """Entry point of `python -m training.builtin_models.make`."""
    run_app("training.builtin_models.make", app)


if __name__ == "__main__":
    main()

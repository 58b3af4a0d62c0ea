"""Teaching a built-in model longer messages: `python -m training.builtin_models.lengthen --out DIR`.

`small-ciphers` looks letters up almost without an error, but it knows its place in a message by counting, up to the
seventeen characters that it was shown. Here it learns to find the place by the letters before it, at any length. Its
language model gets more layers, of which two look a fixed number of tokens back, and most messages have gaps in the
positions of their tokens, so that counting fails. From the fourth of seven rounds on, most requests go on behind the
message, so that it learns where a message ends. In the last two random phrases stand around the parts of questions and
answers: those of the tasks' prompts and traces, each of which is a token that no text so far had. It still sees no
words, no question of the tasks, no answer in the R1 format and no trace of reasoning: random letters, asked for and
answered as before, as long as the longest messages of the tasks. It forgets how to read digits aloud.

The vision tower stays as it is, so that every decoder is seen once and what was seen of it serves for many messages.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers import Qwen2_5_VLForConditionalGeneration as Model
from transformers import Qwen2_5_VLProcessor as Processor
from typer import Option

from datagen.common.command_line import APP, run_app
from datagen.common.errors import writable_folder
from datagen.common.files import RECORD
from datagen.common.versions import installed_versions
from datagen.sources.mnist import load_digits
from training.builtin_models.architecture import CHAT_TEMPLATE
from training.builtin_models.cipher_tables import Decoders, decoders
from training.builtin_models.language import answers_to, decoded
from training.builtin_models.make import PACKAGES, SHOWN, begin, finish, measure, stage
from training.builtin_models.wording import Word, Wording, begin_phrases, going_on, in_phrases, plain

BASE = Path(__file__).parent / "ciphers"
NEW = -1  # a layer of which the model has none
LAYERS = (NEW, 0, NEW, NEW, 1, 2)
BACK = {0: (2, 3), 2: (2, 3)}  # how many tokens the heads of these new layers look back: to the letters before
GAPS = 0.75  # the share of batches whose positions have gaps
LETTERS = 26
PARTS, PART = (1, 2, 3), (3, 10)  # as many parts, of so many letters, as the tasks' messages have words
PARTS_SHARES = (0.15, 0.25, 0.6)
LONGEST = PARTS[-1] * (PART[1] + 1) - 1
LEARNING_RATE = 1e-3
SEEN = 1024  # decoders of which the cells are kept
RENEWED = 16  # so many of them are replaced every eighth step


@dataclass
class Gallery:
    """Decoders as the vision tower sees them: `cells` is (n, tokens, width), and `keys` has each one's key."""

    cells: Tensor
    keys: list[dict[str, str]]
    grid: Tensor  # image_grid_thw of one image
    tables: Iterator[Decoders]
    oldest: int = 0


def deepen(model: Model, layers: tuple[int, ...] = LAYERS) -> Model:
    """The model with new layers between its own, of which `layers` has the numbers; at first they change nothing."""
    config = copy.deepcopy(model.config)
    config.text_config.num_hidden_layers = len(layers)
    config.text_config.layer_types = config.text_config.layer_types[:1] * len(layers)
    deeper = Model(config)
    fresh = copy.deepcopy(deeper.model.language_model.layers)
    deeper.load_state_dict(model.state_dict(), strict=False)
    deeper.tie_weights()
    for place, own in enumerate(layers):
        layer = deeper.model.language_model.layers[place]
        layer.load_state_dict((fresh[place] if own == NEW else model.model.language_model.layers[own]).state_dict())
        if own == NEW:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    for place, distances in BACK.items():
        look_back(deeper.model.language_model.layers[place].self_attn, distances)
    deeper.generation_config = model.generation_config
    return deeper


@torch.no_grad()
def look_back(attention: Any, distances: tuple[int, ...], strength: float = 4.7, pairs: int = 12) -> None:
    """Begin with heads that look so many tokens back whatever is there, by the biases of their queries and keys.

    Rotary embeddings turn the i-th pair of a key by its position times the i-th frequency. Where a query is the key
    turned back by the distance, their product is largest at that distance; the fastest `pairs` make it a sharp peak.
    """
    config = attention.config
    half = attention.head_dim // 2
    turns = config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / half)
    attention.q_proj.weight.mul_(0.3)
    attention.k_proj.weight.mul_(0.3)
    queries = attention.q_proj.bias.zero_().view(len(distances), 2, half)
    keys = attention.k_proj.bias.zero_().view(len(distances), 2, half)
    for head, distance in enumerate(distances):
        keys[head, 0, :pairs] = strength
        queries[head, 0, :pairs] = strength * torch.cos(turns * distance)
        queries[head, 1, :pairs] = -strength * torch.sin(turns * distance)


def random_length(rng: np.random.Generator, longest: int = LONGEST) -> int:
    """How many characters a message of one to three parts has, `longest` at most; more parts are drawn more often."""
    while True:
        parts = rng.choice(PARTS, p=PARTS_SHARES)
        length = int(rng.integers(PART[0], PART[1], size=parts, endpoint=True).sum() + parts - 1)
        if length <= longest:
            return length


def longest_at(progress: float) -> int:
    """The longest message at a point of the first round from 0 to 1: in short ones letters tell the place."""
    return round(14 + (LONGEST - 14) * min(1.0, max(0.0, (progress - 0.15) / 0.5)))


def gaps(rng: np.random.Generator, tokens: int, asked: int, answered: int) -> Tensor:
    """What is added to the positions of so many tokens, of which the question begins and the answer begins.

    There is one gap between question and answer, and up to three within each.
    """
    added = torch.zeros(tokens, dtype=torch.long)
    added[answered] += int(rng.integers(60))
    for first, last in ((asked, answered), (answered + 1, tokens)):
        for place in rng.integers(first, last, size=rng.integers(4)):
            added[place] += int(rng.integers(1, 12))
    return added.cumsum(0)


def long_message(rng: np.random.Generator, letters: str, length: int) -> str:
    """So many random letters in code, up to two of them a space.

    Some letters come often, as in a language, and every fifth message says a stretch of it twice: the last few letters
    alone do not tell where one is.
    """
    share = rng.dirichlet(np.full(len(letters), rng.choice([1.0, 3.0, 10.0])))
    message = rng.choice(list(letters), size=length, p=share)
    if length >= 8 and rng.random() < 0.2:
        size = int(rng.integers(2, min(7, length // 2), endpoint=True))
        first, second = rng.integers(0, length - size, size=2, endpoint=True)
        message[second : second + size] = message[first : first + size].copy()
    for place in rng.integers(1, length - 1, size=rng.integers(0, 2, endpoint=True)):
        message[place] = "_"
    return "".join(message)


def as_example(key: dict[str, str], coded: str) -> dict[str, str]:
    """A coded message and its meaning, as the columns of a dataset have them."""
    return {"coded_message": coded, "message": "".join({"_": " ", **key}[letter] for letter in coded)}


@torch.no_grad()
def look_at(model: Model, processor: Processor, shown: Decoders) -> tuple[Tensor, Tensor]:
    """What the vision tower makes of some decoders (n, tokens, width), and the `image_grid_thw` of one."""
    inputs = processor.image_processor(images=list(shown.images.permute(0, 3, 1, 2)), return_tensors="pt")
    cells = model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    return cells.view(len(shown.keys), -1, cells.shape[-1]), inputs["image_grid_thw"][:1]


def open_gallery(model: Model, processor: Processor, seed: int, size: int = SEEN) -> Gallery:
    """A gallery of decoders with keys of the `train` split."""
    tables = decoders(RENEWED, seed, letters=LETTERS)
    drawn = [next(tables) for _ in range(-(-size // RENEWED))]
    seen = [look_at(model, processor, shown) for shown in drawn]
    keys = [key for shown in drawn for key in shown.keys]
    return Gallery(torch.cat([cells for cells, _ in seen]), keys, seen[0][1], tables)


def renew(gallery: Gallery, model: Model, processor: Processor) -> None:
    """Replace the oldest decoders of a gallery."""
    shown = next(gallery.tables)
    here = slice(gallery.oldest, gallery.oldest + RENEWED)
    gallery.cells[here], gallery.keys[here] = look_at(model, processor, shown)[0], shown.keys
    gallery.oldest = here.stop % len(gallery.keys)


def loss_on(
    model: Model,
    processor: Processor,
    gallery: Gallery,
    rng: np.random.Generator,
    *,
    batch: int,
    longest: int,
    word: Word,
) -> Tensor:
    """The loss of the answers to `batch` messages of one length: nothing is padded, and the mask is the causal one."""
    length = random_length(rng, longest)
    chosen = rng.integers(len(gallery.keys), size=batch)
    keys = [gallery.keys[i] for i in chosen]
    hidden = [as_example(key, long_message(rng, "".join(key), length)) for key in keys]
    tokenizer, image = processor.tokenizer, model.config.image_token_id
    wording = word(rng)
    texts = [{"type": "text", "text": wording.request(one)} for one in hidden]
    requests = [[{"role": "user", "content": [{"type": "image"}, one]}] for one in texts]
    prompts = tokenizer.apply_chat_template(
        requests, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
    )
    placeholder = "<|image_pad|>"
    prompts = [prompt.replace(placeholder, placeholder * gallery.cells.shape[1]) for prompt in prompts]
    answers = tokenizer([f"{decoded(one, wording.around)}<|im_end|>" for one in hidden], return_tensors="pt")[
        "input_ids"
    ]
    tokens = torch.cat([tokenizer(prompts, return_tensors="pt")["input_ids"], answers], dim=1)
    pictured = tokens == image
    with torch.autocast("cpu", torch.bfloat16):
        given = model.get_input_embeddings()(tokens)
        given = given.masked_scatter(pictured[..., None].expand_as(given), gallery.cells[chosen])
        places, _ = model.model.get_rope_index(
            tokens[:1], mm_token_type_ids=pictured[:1].int(), image_grid_thw=gallery.grid
        )
        if rng.random() < GAPS:
            asked = int(pictured[0].nonzero()[-1]) + 4
            places = places + gaps(rng, tokens.shape[1], asked, tokens.shape[1] - answers.shape[1])
        known = model.model.language_model(inputs_embeds=given, position_ids=places, use_cache=False)
        guesses = model.lm_head(known.last_hidden_state[:, -answers.shape[1] - 1 : -1])
    return F.cross_entropy(guesses.float().flatten(0, 1), answers.flatten())


def learn_long_messages(
    model: Model,
    processor: Processor,
    *,
    steps: int,
    seed: int,
    batch: int,
    growing: bool,
    word: Word,
) -> None:
    """Train the language model on three batches of `batch` messages a step, each of one length and one wording.

    Where they are `growing`, they are short at first.
    """
    model.model.visual.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    rng, gallery = np.random.default_rng(seed), open_gallery(model, processor, seed)
    model.set_attn_implementation("eager")  # in bfloat16 on a CPU twice as fast as the fused one
    progress = tqdm(range(steps), desc="long messages")
    for step in progress:
        longest = longest_at(step / steps) if growing else LONGEST
        more: dict[str, Any] = {"batch": batch, "longest": longest, "word": word}
        losses = [loss_on(model, processor, gallery, rng, **more) / 3 for _ in range(3)]
        torch.autograd.backward(losses)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 8 == 7:
            renew(gallery, model, processor)
        progress.set_postfix(loss=f"{sum(loss.item() for loss in losses):.3f}", longest=longest)
    model.set_attn_implementation("sdpa")


def long_decoding_accuracy(
    model: Model, processor: Processor, parts: int, images: int = 128, split: str = "test"
) -> float:
    """Share of messages of so many parts of 3 to 10 random letters decoded without an error, with keys of a split."""
    shown = next(decoders(images, seed=3, split=split, letters=LETTERS))
    rng = np.random.default_rng(3)
    lengths = rng.integers(PART[0], PART[1], size=(images, parts), endpoint=True)
    hidden = [
        as_example(key, "_".join("".join(rng.choice(list(key), size=size)) for size in row))
        for key, row in zip(shown.keys, lengths, strict=True)
    ]
    longest = parts * (PART[1] + 1)
    asked = [Wording().request(one) for one in hidden]
    said = answers_to(model, processor, shown.images, asked, 6 * longest + 8)
    return sum(answer == decoded(one) for answer, one in zip(said, hidden, strict=True)) / images


def lengthen(base: Path, out: Path, *, rounds: int, steps: int, seed: int, batch: int) -> dict[str, Any]:
    """Make the model of the folder `base` one for long messages, and write it to `out`; returns its record.

    A round that is complete is kept in `OUT.partial`, so that a run that was killed goes on with the next one.

    Raises:
        UserError: where `out` is there already, or was begun with other settings.
    """
    settings = {"base": base.name, "rounds": rounds, "round_steps": steps, "long_batch": batch, "long_seed": seed}
    partly = begin(out, settings)
    record: dict[str, Any] = json.loads((base / RECORD).read_text())
    processor = AutoProcessor.from_pretrained(base)
    torch.manual_seed(seed)
    model = deepen(AutoModelForImageTextToText.from_pretrained(base))
    seconds = 0.0
    wordings = [word_of(rounds - number, rounds) for number in range(rounds)]
    for number, word in enumerate(wordings):
        if number == wordings.index(in_phrases):
            begin_phrases(model, processor)
        more: dict[str, Any] = {"growing": number == 0, "word": word}
        work = partial(learn_long_messages, model, processor, steps=steps, seed=seed + number, batch=batch, **more)
        seconds += stage(partly / f"round-{number + 1}", model, work)
    record |= {"shown": SHOWN, "versions": installed_versions(PACKAGES), "settings": record["settings"] | settings}
    record["seconds"] |= {"long": seconds}
    record["measured"] = measure(model, processor, load_digits("mnist-5k"))
    for parts in PARTS:
        name = f"messages_decoded_of_{parts}_times_3_to_10_letters"
        record["measured"][name] = long_decoding_accuracy(model, processor, parts)
    finish(partly, out, model, processor, record)
    return record


def word_of(left: int, rounds: int) -> Word:
    """The wording of the round with which so many are left, itself among them."""
    if left <= max(1, rounds * 2 / 7):
        return in_phrases
    return going_on if left <= rounds * 4 / 7 else plain


app = typer.Typer(**APP | {"add_completion": False})


@app.command()
def command(
    *,
    out: Annotated[Path, Option(metavar="DIR", help="Folder to write.", show_default=False)],
    base: Annotated[
        Path, Option(metavar="DIR", help="Start from the model in this folder.", show_default="small-ciphers")
    ] = BASE,
    rounds: Annotated[int, Option(min=1, metavar="N", help="Train N times, each from the weights of the last.")] = 7,
    round_steps: Annotated[int, Option(min=1, metavar="N", help="Train for N steps a time.")] = 500,
    batch: Annotated[int, Option(min=1, metavar="N", help="Show three times N messages a step.")] = 24,
    seed: Annotated[int, Option(min=0, metavar="N", help="Draw and initialize from this seed.")] = 0,
) -> None:
    """Teach a small model that is built in longer messages."""
    record = lengthen(base, writable_folder(out), rounds=rounds, steps=round_steps, seed=seed, batch=batch)
    print(f"{out}: {record['measured']}")


def main() -> NoReturn:
    """Entry point of `python -m training.builtin_models.lengthen`."""
    run_app("training.builtin_models.lengthen", app)


if __name__ == "__main__":
    main()

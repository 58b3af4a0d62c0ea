"""The small model: the one that is built in reads unseen handwriting, and its maker makes a miniature of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datagen import r1_format
from datagen.r1_format import vision_token_ids
from datagen.registry import TASKS
from datagen.sources.mnist import SIDE, load_digits
from tests.processes import invoke, refused
from training.builtin_models import lengthen, make, wording
from training.builtin_models.architecture import EXAMPLE, make_processor
from training.builtin_models.cipher_tables import SHARES, decoders
from training.builtin_models.language import (
    ciphered,
    decoded,
    decoding_accuracy,
    lookups,
    random_message,
    transcription_accuracy,
)
from training.builtin_models.reading import NOTHING, batches, distort, letter_accuracy
from training.models import BUILT_IN, SMALL, load_model

PROCESSOR = make_processor()


@pytest.mark.parametrize("name", ["small", "small-ciphers"])
def test_the_built_in_models_read_unseen_digits_as_their_cards_say(name: str) -> None:
    model, processor = load_model(name)
    unseen = load_digits("mnist-5k").of_split("test")
    named, exact = transcription_accuracy(model, processor, unseen, images=512)
    assert named >= 0.95
    assert exact >= 0.85
    measured = json.loads((BUILT_IN / SMALL[name] / "r1vlm.json").read_text())["measured"]
    assert abs(measured["digits_read_aloud"] - named) < 0.02, "the card does not tell what the weights do"


def test_the_model_for_ciphers_looks_up_letters_with_unseen_keys() -> None:
    model, processor = load_model("small-ciphers")
    measured = json.loads((BUILT_IN / "ciphers" / "r1vlm.json").read_text())["measured"]
    named, found = letter_accuracy(model, processor, "test")
    assert min(named, found) > 0.9
    decoded = decoding_accuracy(model, processor, letters=8, images=128)
    assert abs(measured["messages_decoded_of_8_letters"] - decoded) < 0.1


def test_the_model_for_long_messages_decodes_them_with_unseen_keys() -> None:
    model, processor = load_model("small-messages")
    measured = json.loads((BUILT_IN / "messages" / "r1vlm.json").read_text())["measured"]
    decoded = lengthen.long_decoding_accuracy(model, processor, parts=2, images=64)
    assert decoded > 0.8
    assert abs(measured["messages_decoded_of_2_times_3_to_10_letters"] - decoded) < 0.1


@pytest.mark.parametrize("name", SMALL)
def test_the_built_in_models_are_small_and_safe(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (BUILT_IN / SMALL[name]).iterdir()}
    assert sum(files.values()) <= 20_000_000
    assert {"model.safetensors", "config.json", "chat_template.jinja", "README.md", "r1vlm.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


@pytest.mark.slow
def test_a_miniature_is_made_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"transcription_accuracy": 32, "digit_accuracy": 32, "letter_accuracy": 4, "decoding_accuracy": 4}
    for name, images in measured.items():
        monkeypatch.setattr(make, name, partial(getattr(make, name), images=images))
    out = tmp_path / "mini"
    steps = ("--reading-steps", "3", "--letters-steps", "2", "--speaking-steps", "2", "--whole-steps", "1")
    words = ("--out", out, *steps, "--batch", "4")
    done = invoke("training.builtin_models.make", *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (BUILT_IN / "ciphers").iterdir()} == {path.name for path in out.iterdir()}
    assert (
        "--reading-steps 3 --letters-steps 2 --speaking-steps 2 --whole-steps 1 --batch 4 --seed 0"
        in (out / "README.md").read_text()
    )
    assert not out.with_name("mini.partial").exists()
    model, processor = load_model(str(out))
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert len(vision_token_ids(processor.tokenizer.get_vocab())) == 5
    assert "is a file" in refused(invoke("training.builtin_models.make", "--out", out / "config.json"))
    assert "there already" in refused(invoke("training.builtin_models.make", "--out", out))


@pytest.mark.slow
def test_a_model_for_long_messages_is_made_by_one_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done_before: list[int] = []

    def killed_in_the_second_round(*_: object, seed: int, **__: object) -> None:
        done_before.append(seed)
        if seed == 1:
            raise KeyboardInterrupt

    out = tmp_path / "long"
    words = ("--out", out, "--rounds", "2", "--round-steps", "1", "--batch", "2")
    with monkeypatch.context() as patched:
        patched.setattr(lengthen, "learn_long_messages", killed_in_the_second_round)
        assert invoke("training.builtin_models.lengthen", *words).returncode != 0
    assert done_before == [0, 1]
    assert "other settings" in refused(invoke("training.builtin_models.lengthen", "--out", out, "--batch", "3"))
    monkeypatch.setattr(lengthen, "SEEN", 16)
    monkeypatch.setattr(lengthen, "measure", lambda *_: {"digits_read_aloud": 0.5})
    monkeypatch.setattr(lengthen, "long_decoding_accuracy", partial(lengthen.long_decoding_accuracy, images=2))
    done = invoke("training.builtin_models.lengthen", *words)
    assert done.returncode == 0, done.stderr
    card = (out / "README.md").read_text()
    assert "2 times 1 steps of 6 messages" in card
    assert "lengthen --base base --out long --rounds 2 --round-steps 1 --batch 2 --seed 0" in card
    assert not out.with_name("long.partial").exists()
    model, _ = load_model(str(out))
    assert len(model.model.language_model.layers) == len(lengthen.LAYERS)
    assert sum(path.stat().st_size for path in out.iterdir()) <= 20_000_000
    assert "there already" in refused(invoke("training.builtin_models.lengthen", "--out", out))


def test_new_layers_change_nothing_at_first() -> None:
    model, processor = load_model("small-ciphers")
    shown = next(decoders(4, seed=0, letters=8))
    rng = np.random.default_rng(0)
    batch = lookups(processor, rng, shown, 5, joining=4)
    with torch.no_grad():
        torch.testing.assert_close(lengthen.deepen(model)(**batch).logits, model(**batch).logits)


def test_phrases_that_were_never_shown_begin_as_the_mean_of_their_parts() -> None:
    model, processor = load_model("small-ciphers")
    table, tokens = model.get_input_embeddings().weight, processor.tokenizer.convert_tokens_to_ids
    before = table.detach().clone()
    wording.begin_phrases(model, processor)
    changed = set((table != before).any(1).nonzero().flatten().tolist())
    assert changed >= {tokens(one) for one in ("<chars>", ". <chars> ", "Decode this message: ", "system\n")}
    assert not changed & {tokens(one) for one in ("a = ", ", ", ". ", "user\n", "a", "<|im_end|>")}
    torch.testing.assert_close(table[tokens("<chars>")], before[tokens([*"<chars>"])].mean(0))
    torch.testing.assert_close(table[tokens(". <chars> ")], table[tokens([". ", "<chars>", " "])].mean(0))


@given(st.integers(0, 10_000))
def test_messages_of_one_length_and_one_wording_have_as_many_tokens_and_single_letters(seed: int) -> None:
    worded = wording.in_phrases(np.random.default_rng(seed))
    lengths = set()
    for coded, message in (("x q _ a", "cat an"), ("b e _ d", "in the")):
        example = {"coded_message": coded.replace(" ", ""), "message": message[:2] + " " + message[-1]}
        request = PROCESSOR.tokenizer(worded.request(example))["input_ids"]
        answer = PROCESSOR.tokenizer(decoded(example, worded.around))["input_ids"]
        tokens = PROCESSOR.tokenizer.convert_ids_to_tokens(request)
        start = next(i for i in range(len(tokens)) if tokens[i : i + 7] == list(coded))
        assert tokens[start + 7][0] not in " _" + ascii_lowercase  # the message does not go on
        lengths.add((len(request), len(answer)))
    assert len(lengths) == 1


def test_long_messages_are_as_long_as_those_of_the_tasks() -> None:
    rng = np.random.default_rng(0)
    lengths = [lengthen.random_length(rng) for _ in range(2000)]
    assert (min(lengths), max(lengths)) == (3, 32)
    for length in lengths[:200]:
        message = lengthen.long_message(rng, "abcdefgh", length)
        assert len(message) == length
        assert message.strip("_") == message
        assert set(message) <= set("abcdefgh_")


def test_reading_batches_label_the_cells_of_the_digits_centres() -> None:
    images, cells = next(batches(load_digits("mnist-5k").of_split("validation"), 64, seed=0, strength=0.0))
    assert images.shape == (64, 84, 84, 3)
    assert images.dtype == torch.uint8
    counts = (cells != NOTHING).sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    grey = images.float().mean(-1)
    ink = (grey.amax((1, 2), keepdim=True) - grey > 60).float()
    per_cell = torch.nn.functional.avg_pool2d(ink, SIDE).flatten(1)
    assert per_cell[cells != NOTHING].mean() > 3 * per_cell[cells == NOTHING].mean()


@pytest.mark.parametrize("letters", SHARES)
def test_decoders_say_what_their_cells_show(letters: int) -> None:
    shown = next(decoders(4, seed=0, letters=letters))
    grey = shown.images.float().mean(-1)
    cells = grey.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).flatten(1, 2).flatten(2)
    for texts in (shown.letters, shown.pointers):
        assert {len(text) for text in texts} == {cells.shape[1]}
    for key, seen, pointers, pixels in zip(shown.keys, shown.letters, shown.pointers, cells, strict=True):
        assert len(key) == letters
        assert dict(zip(seen.rstrip()[::2], seen.rstrip()[1::2], strict=True)) == key
        assert pointers.rstrip()[1::2] == seen.rstrip()[::2]
        assert [bool(p.std() > 5) for p in pixels] == [letter != " " for letter in seen]


def test_random_messages_are_decoded_by_their_key() -> None:
    rng = np.random.default_rng(0)
    key = {"a": "c", "c": "a", "t": "t"}
    for longest in (1, 3, 17):
        for _ in range(50):
            one = ciphered(rng, key, longest)
            assert 1 <= len(one["message"]) == len(one["coded_message"]) <= longest
            assert one["coded_message"].strip("_") == one["coded_message"]
            assert decoded(one).endswith(f". {one['message']}")
    assert decoded({"coded_message": "cat_c", "message": "act a"}) == (
        "c = a, a = c, t = t, _ = _, c = a. a c t _ a. act a"
    )
    assert set(random_message(rng, "x", 100)) == {"x", " "}


@given(st.text(max_size=200))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = PROCESSOR.tokenizer
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


def test_sentences_of_prompts_are_single_tokens_and_letters_that_are_reasoned_about_too() -> None:
    tokenizer = PROCESSOR.tokenizer
    assert tokenizer.tokenize("x = c, q = a. <chars> c a") == ["x = ", "c", ", ", "q = ", "a", ". <chars> ", *"c a"]
    assert len(tokenizer) <= 448
    for task in (task for task in TASKS.values() if task.interaction is None):
        prompt = r1_format.make_prompt(task.ask(EXAMPLE), task.example_answer)
        assert sum(len(tokenizer.tokenize(message["content"])) for message in prompt) < 45


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_distortion_keeps_shape_and_range_and_none_is_none(strength: float) -> None:
    glyphs = torch.from_numpy(load_digits("mnist-5k").pixels[:50]) / 255
    moved = distort(glyphs, torch.Generator().manual_seed(0), strength)
    assert moved.shape == glyphs.shape
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert torch.allclose(moved, glyphs, atol=1e-4) == (strength == 0.0)

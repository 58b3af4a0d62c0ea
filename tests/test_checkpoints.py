"""Checkpoints that are damaged, not whole, or name code of their own: both commands refuse them with one sentence."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from datagen.hub import chat_template
from datagen.hub.checkpoint import load_checkpoint, load_processor
from evaluation.backends import transformers as transformers_backend
from evaluation.backends.base import Sampling
from tests.conftest import Asked
from tests.processes import command, invoke, refused
from tests.training.conftest import TINY
from training.models import load_model

pytestmark = pytest.mark.slow
CODE = "from pathlib import Path\nPath(__file__).with_name('EXECUTED').touch()\n"


def settings(name: str, **changes: Any) -> Callable[[Path], None]:
    """Changes settings in one of the folder's JSON files."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Changes the named tensors."""

    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return rewrite


def code_for(part: str) -> Callable[[Path], None]:
    """Names code in the folder that would load the model's configuration, or the processor."""

    def change(folder: Path) -> None:
        (folder / "own.py").write_text(CODE)
        if part == "model":
            names = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
            settings("config.json", model_type="own", auto_map=names)(folder)
        else:
            settings("processor_config.json", processor_class="Own", auto_map={"AutoProcessor": "own.Own"})(folder)

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    """Keeps the beginning of a file: an interrupted copy."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def text(name: str, content: str) -> Callable[[Path], None]:
    """Replaces a file."""
    return lambda folder: (folder / name).write_text(content) and None


def larger_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a prefix before every name": (
        weights(lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()}),
        "of the model's weights",
    ),
    "a tensor is gone": (
        weights(lambda tensors: {name: tensor for name, tensor in tensors.items() if "0.mlp.up" not in name}),
        "of the model's weights",
    ),
    "another vocabulary": (larger_vocabulary, "of other shapes"),
    "half of the weights": (cut("model.safetensors", 100_000), "damaged weights"),
    "no weights in the file": (cut("model.safetensors", 0), "damaged weights"),
    "a header that claims more": (
        lambda folder: (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}") and None,
        "damaged weights",
    ),
    "quantised": (
        settings("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantised",
    ),
    "an unknown kind of quantisation": (
        settings("config.json", quantization_config={"quant_method": "own"}),
        "quantis",
    ),
    "no chat template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    "a template with an error": (
        text("chat_template.jinja", "{{ raise_exception('no pictures') }}"),
        r"can't be rendered (no pictures)",
    ),
    "a template that is none": (text("chat_template.jinja", "{% if %}"), "can't be rendered"),
    "a template that writes too much": (
        text("chat_template.jinja", "{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}"),
        "it writes without end",
    ),
    "a template that takes too much memory": (
        text("chat_template.jinja", "{% set n = messages | length * 10**9 %}{% set x = 'x' * n %}"),
        "too much time or memory",
    ),
    "half of the configuration": (cut("config.json", 100), "config.json"),
    "half of the tokenizer": (cut("tokenizer.json", 100), "can't be loaded"),
    "half of the processor's settings": (cut("processor_config.json", 20), "can't be loaded"),
    "settings that are a list": (text("config.json", "[]"), "config.json"),
    "deep settings": (text("config.json", "[" * 100_000), "config.json"),
    "code for the model": (code_for("model"), "code of its own"),
    "code for the processor": (code_for("processor"), "code of its own"),
    "another kind of model": (text("config.json", '{"model_type": "bert"}'), "can't be loaded"),
}


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, random_checkpoint: Path, tmp_path: Path) -> tuple[Path, str]:
    """A checkpoint that is damaged in one way, and what the sentence about it says."""
    change, sentence = DAMAGES[request.param]
    folder = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    change(folder)
    return folder, sentence


def words(kind: str, folder: Path, data: Path, out: Path) -> list[str]:
    """The arguments of a command that loads the checkpoint."""
    if kind == "evaluation.cli":
        return [str(folder), "--data", str(data), "--limit", "2", "--max-new-tokens", "2", "--out", str(out)]
    return ["digits", "--model", str(folder), "--data", str(data), "--cold-start", "--traces", "4", "--out", str(out)]


@pytest.mark.parametrize("kind", ["training.cli", "evaluation.cli"])
def test_a_damaged_checkpoint_is_one_sentence_and_leaves_nothing(
    kind: str, damaged: tuple[Path, str], digits_folder: Path, tmp_path: Path
) -> None:
    folder, sentence = damaged
    out = tmp_path / "out"
    assert sentence in refused(invoke(kind, *words(kind, folder, digits_folder, out)))
    assert not (folder / "EXECUTED").exists()
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("kind", ["training.cli", "evaluation.cli"])
@pytest.mark.parametrize(("part", "terminal"), [("model", True), ("processor", False)])
def test_no_answer_makes_a_command_run_a_checkpoints_code(  # noqa: PLR0917 - fixtures
    kind: str, part: str, terminal: bool, random_checkpoint: Path, digits_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    code_for(part)(folder)
    writer, reader = pty.openpty() if terminal else os.pipe()[::-1]
    os.write(writer, b"y\n" * 9)
    done = subprocess.run(
        command(kind, *words(kind, folder, digits_folder, tmp_path / "out")),
        stdin=reader,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    os.close(reader)
    os.close(writer)
    assert "code of its own" in refused(done)
    assert not (folder / "EXECUTED").exists()


def test_a_template_that_takes_long_is_refused(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    slow = "{% for i in range(9999) %}{% for j in range(2000) %}{% set x = i * j %}{% endfor %}{% endfor %}"
    text("chat_template.jinja", slow)(folder)
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    sentence = refused(invoke("evaluation.cli", *words("evaluation.cli", folder, digits_folder, tmp_path / "out")))
    assert "can't be rendered (it takes too much time or memory)" in sentence


@pytest.mark.parametrize("name", ["a prefix before every name", "another vocabulary", "quantised", "no chat template"])
def test_vllm_is_not_asked_to_load_a_damaged_checkpoint(
    name: str, random_checkpoint: Path, digits_folder: Path, tmp_path: Path, stand_in_vllm: ModuleType
) -> None:
    change, sentence = DAMAGES[name]
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(random_checkpoint, folder)
    change(folder)
    arguments = [*words("evaluation.cli", folder, digits_folder, out), "--engine", "vllm"]
    assert sentence in refused(invoke("evaluation.cli", *arguments))
    assert not out.exists() or not any(out.iterdir())


def test_what_a_checkpoint_says_of_sampling_changes_nothing_in_training(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import GenerationConfig

    folder = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, folder)
    own = {"do_sample": True, "top_k": 1, "min_p": 0.9, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    settings("generation_config.json", **own)(folder)
    said = []
    for source in (random_checkpoint, folder):
        model, processor = load_model(str(source))
        inputs = processor.tokenizer("How many dots", return_tensors="pt")
        sampling = GenerationConfig(do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=20)  # TRL's
        torch.manual_seed(0)
        sampled = model.generate(**inputs, generation_config=sampling).tolist()
        said.append((sampled, model.generate(**inputs, do_sample=False, max_new_tokens=20).tolist()))
    assert said[0] == said[1]


ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "whole modules": {"modules_to_save": ["gate_proj"]},
    "tokens": {"trainable_token_indices": list(range(0, 400, 2))},
}


KINDS = {name for settings in ADAPTERS.values() for name in settings}


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, random_checkpoint: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A folder with an adapter of a kind, and the model with the adapter in it, all at random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(random_checkpoint, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **ADAPTERS[request.param])
    adapted = get_peft_model(model, config)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data += 0.3 * torch.randn_like(weight)
    folder = tmp_path / "adapter"
    shutil.copytree(random_checkpoint, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    adapted.save_pretrained(folder)
    return folder, adapted.eval()


def test_an_adapter_of_any_kind_is_loaded_whole(adapter: tuple[Path, Any], random_checkpoint: Path) -> None:
    import torch

    folder, adapted = adapter
    inputs = {"input_ids": torch.arange(10, 30)[None]}
    evaluated = transformers_backend.load(folder, Sampling(2), 8).model
    training, _ = load_checkpoint(folder, "float32", trainable=True)
    base, _ = load_checkpoint(random_checkpoint, "float32")
    with torch.no_grad():
        wanted = adapted(**inputs).logits
        for model in (evaluated, training.eval()):
            torch.testing.assert_close(model(**inputs).logits, wanted)
        assert not torch.allclose(base(**inputs).logits, wanted)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {name for name, weight in training.named_parameters() if weight.requires_grad} == trained


def test_an_adapter_of_any_kind_answers_in_an_evaluation(
    adapter: tuple[Path, Any], digits_folder: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    import torch

    folder, adapted = adapter
    done = invoke("evaluation.cli", *words("evaluation.cli", folder, digits_folder, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (batch,) = asked
    greedy = transformers_backend.generation_config(adapted, load_processor(folder), Sampling(2))
    with torch.inference_mode():
        said = adapted.generate(**batch.whole, generation_config=greedy)
    assert said[:, batch.whole["input_ids"].shape[1] :].tolist() == batch.said


@pytest.mark.parametrize("adapter", ["LoRA", "DoRA", "whole modules"], indirect=True)
def test_training_goes_on_with_an_adapter(
    adapter: tuple[Path, Any], digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    folder, _ = adapter
    run = ["digits", "--model", folder, "--data", digits_folder, "--out", tmp_path / "run", "--steps", "1", *TINY]
    assert "a LoRA adapter already" in refused(invoke("training.cli", *run, "--set", "lora={r: 4}"))
    run += ["--set", "weight_decay=0.5"]  # a random model earns nothing, and has no other gradient
    done = invoke("training.cli", *run, "--set", "beta=0.1", "--learning-rate", "0.01", "--no-report")
    assert done.returncode == 0, done.stderr
    final = tmp_path / "run" / "final"
    given, config = (json.loads((one / "adapter_config.json").read_text()) for one in (folder, final))
    assert {name: config[name] for name in KINDS} == {name: given[name] for name in KINDS}
    assert Path(config["base_model_name_or_path"]) == random_checkpoint
    before, after = (load_file(one / "adapter_model.safetensors") for one in (folder, final))
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    scored = invoke("evaluation.cli", final, "--limit", "4", "--max-new-tokens", "8", "--out", tmp_path / "eval")
    assert scored.returncode == 0, scored.stderr
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["n"] == 4


@pytest.mark.parametrize("adapter", ["tokens"], indirect=True)
def test_training_does_not_go_on_with_single_tokens_of_a_tied_head(
    adapter: tuple[Path, Any], digits_folder: Path, tmp_path: Path
) -> None:
    arguments = words("training.cli", adapter[0], digits_folder, tmp_path / "run")
    assert "the adapter trains single tokens" in refused(invoke("training.cli", *arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, before TRL refuses it
def test_an_adapter_on_the_output_head_is_refused(random_checkpoint: Path, digits_folder: Path, tmp_path: Path) -> None:
    arguments = ["digits", "--model", random_checkpoint, "--data", digits_folder, "--out", tmp_path / "run", *TINY]
    head = "lora={r: 4, target_modules: [q_proj, lm_head]}"
    assert "a PEFT adapter to `lm_head` is not supported" in refused(invoke("training.cli", *arguments, "--set", head))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("adapter", ["LoRA"], indirect=True)
def test_vllm_is_told_of_no_adapter(
    adapter: tuple[Path, Any], digits_folder: Path, tmp_path: Path, stand_in_vllm: ModuleType
) -> None:
    arguments = [*words("evaluation.cli", adapter[0], digits_folder, tmp_path / "out"), "--engine", "vllm"]
    assert "LoRA adapters are answered by transformers" in refused(invoke("evaluation.cli", *arguments))

"""Checkpoints that are damaged, not whole, or name code of their own: both commands refuse them with one sentence."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import command, invoke, refused

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

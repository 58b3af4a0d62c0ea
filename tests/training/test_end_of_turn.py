"""Checkpoints whose `eos_token` is not what their chat template writes behind an answer: answers end all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import Asked
from tests.processes import invoke, refused
from tests.training.conftest import TINY
from training.trainers import sft
from training.trainers.grpo import run_trainer

pytestmark = pytest.mark.slow
END, OTHER = "<|im_end|>", "<|endoftext|>"


def edit(path: Path, **changes: Any) -> None:
    """Change names in a file of settings; None removes one."""
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def special_tokens(folder: Path) -> dict[str, int]:
    """The ids of a checkpoint's special tokens."""
    return {
        token["content"]: token["id"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }


def edit_template(folder: Path, end: str) -> None:
    """Let the chat template end an answer otherwise."""
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace(END, end))


@pytest.fixture(params=["endoftext", "no eos_token", "no generation config"])
def ended(request: pytest.FixtureRequest, random_checkpoint: Path, tmp_path: Path) -> Path:
    """A model that ends every answer at once, as its chat template does, and whose files name another end or none."""
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    vocabulary = special_tokens(folder)
    edit(folder / "tokenizer_config.json", eos_token=None if request.param == "no eos_token" else OTHER)
    edit(folder / "generation_config.json", eos_token_id=vocabulary[OTHER])
    if request.param == "no generation config":
        (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"]):
        part["eos_token_id"] = vocabulary[OTHER]
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    (embedding,) = [weight for name, weight in weights.items() if "embed_tokens" in name]
    embedding[:, 0] = 1.0  # every token points a little to the end, which so gets the largest logit
    embedding[vocabulary[END], 0] = 50.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_answer_in_training_ends_where_the_template_says(ended: Path, few_digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words: list[str | Path] = [
        "digits",
        "--model",
        ended,
        "--data",
        few_digits,
        "--out",
        out,
        "--steps",
        "1",
        "--no-report",
        *TINY,
    ]
    done = invoke("training.cli", *words)
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert row["completions/clipped_ratio"] == 0
    assert row["completions/mean_length"] == 1
    stops = json.loads((out / "final" / "generation_config.json").read_text())["eos_token_id"]
    assert special_tokens(ended)[END] in stops  # other tools stop there, too


def evaluate(folder: Path, data: Path, out: Path, *more: str) -> None:
    """Run `r1vlm-eval` on two questions."""
    words = [folder, "--data", data, "--limit", "2", "--max-new-tokens", "8", "--out", out]
    done = invoke("evaluation.cli", *words, *more)
    assert done.returncode == 0, done.stderr


def test_an_answer_in_an_evaluation_ends_where_the_template_says(
    ended: Path, few_digits: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    evaluate(ended, few_digits, tmp_path / "out")
    (batch,) = asked
    assert batch.said == [[special_tokens(ended)[END]]] * 2


def test_vllm_is_told_where_an_answer_ends(
    ended: Path, few_digits: Path, tmp_path: Path, stand_in_vllm: ModuleType
) -> None:
    stops = []

    def chat(conversations: list[Any], parameters: list[Any], **_: Any) -> list[Any]:
        stops.extend(one.stop_token_ids for one in parameters)
        return [SimpleNamespace(outputs=[SimpleNamespace(text="")]) for _ in conversations]

    vars(stand_in_vllm).update(LLM=lambda *_, **__: SimpleNamespace(chat=chat), SamplingParams=SimpleNamespace)
    evaluate(ended, few_digits, tmp_path / "out", "--engine", "vllm")
    assert len(stops) == 2
    assert all(special_tokens(ended)[END] in one for one in stops)


@pytest.mark.parametrize(("end", "taught"), [(END, END), ("", OTHER)])
def test_a_cold_start_teaches_an_end(  # noqa: PLR0917 - fixtures
    end: str,
    taught: str,
    random_checkpoint: Path,
    few_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    edit(folder / "tokenizer_config.json", eos_token=OTHER)
    edit_template(folder, end)
    texts: list[str] = []

    def spy(trainer: Any, out: Path) -> Path:
        labels = next(iter(trainer.get_train_dataloader()))["labels"]
        texts.extend(trainer.processing_class.tokenizer.decode(row[row != -100]) for row in labels)
        return run_trainer(trainer, out)

    monkeypatch.setattr(sft, "run_trainer", spy)
    words: list[str | Path] = ["digits", "--model", folder, "--data", few_digits, "--out", tmp_path / "run"]
    words += ["--cold-start", "--traces", "4", "--steps", "1", "--set", "per_device_train_batch_size=4"]
    done = invoke("training.cli", *words)
    assert done.returncode == 0, done.stderr
    assert len(texts) == 4
    assert all(text.rstrip().endswith(f"</answer>{taught}") for text in texts)


@pytest.mark.parametrize("kind", ["training.cli", "evaluation.cli"])
@pytest.mark.parametrize(
    ("end", "eos", "says"),
    [
        ("<|over|>", OTHER, "ends an answer with '<|over|>', which is no special token of the tokenizer"),
        ("", None, "names no token that ends an answer"),
    ],
)
def test_a_checkpoint_whose_answers_could_not_end_is_refused(  # noqa: PLR0917 - fixtures
    kind: str, end: str, eos: str | None, says: str, random_checkpoint: Path, few_digits: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    edit(folder / "tokenizer_config.json", eos_token=eos)
    edit_template(folder, end)
    out = tmp_path / "out"
    words = ["digits", "--model", folder, "--no-report"] if kind == "training.cli" else [folder]
    sentence = refused(invoke(kind, *words, "--data", few_digits, "--out", out))
    assert says in sentence
    if eos:
        assert repr(eos) in sentence
    assert not out.exists() or not any(out.iterdir())

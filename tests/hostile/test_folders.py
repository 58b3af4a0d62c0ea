"""Folders and files of somebody else's, each damaged in one way: one sentence that says what to do, and nothing else.

A case is a name, what damages the good thing, and what the sentence says. None of them hangs, or harms what reads it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from datagen.hub.cards import model_card
from datagen.hub.record import read_record
from datagen.hub.run_folder import whole_checkpoints
from tests.hostile.damage import (
    BIDI,
    DEEP,
    MANIFEST,
    MARKUP,
    NAMED_AGAIN,
    TERMINAL,
    TEST,
    Damage,
    a_folder,
    fit,
    gone,
    half,
    image,
    keys,
    literal,
    not_utf8,
    row,
    sized,
    table,
    text,
    without,
)
from tests.processes import invoke, refused

RECORD, INDEX = "r1vlm.json", "model.safetensors.index.json"
AGAIN = "build or download"

DATASETS: dict[str, tuple[Damage, str]] = {
    "half a Parquet file": (half(TEST), AGAIN),
    "an empty Parquet file": (text(TEST, ""), AGAIN),
    "an empty Parquet file, with its hash": (
        lambda folder: (text(TEST, "")(folder) and None) or fit(folder),
        "is damaged",
    ),
    "text in a Parquet file": (lambda folder: text(TEST, "id,task\n")(folder) and fit(folder), "is damaged"),
    "half a Parquet file, with its hash": (lambda folder: half(TEST)(folder) and fit(folder), "is damaged"),
    "no Parquet file": (gone(TEST), "is missing"),
    "a folder for a Parquet file": (a_folder(TEST), "is missing"),
    "a column less": (table(lambda before: before.drop_columns(["answer"])), "it has other columns"),
    "a column more": (table(lambda before: before.append_column("hint", before["answer"])), "it has other columns"),
    "a column of another name": (table(lambda before: before.rename_columns({"answer": "reply"})), "other columns"),
    "a column of another type": (
        table(lambda before: before.set_column(8, "num_digits", before["num_digits"].cast("int32"))),
        "it has other columns",
    ),
    "no metadata": (table(lambda before: before.replace_schema_metadata({})), "it has other columns"),
    "no answer": (row(answer=None), "a row has a null"),
    "no ground truth": (row(digits=None), "is damaged"),
    "half a ground truth": (row(digits=[None]), "a row has a null"),
    "no prompt": (row(prompt=None), "a row has a null"),
    "a message without content": (row(prompt=[{"role": "system", "content": None}]), "a row has a null"),
    "a prompt of one message": (row(prompt=lambda before: before[1:]), "is not a system and a user message"),
    "no image": (row(image=None), "is damaged"),
    "no bytes of an image": (image(lambda _: None), "is damaged"),
    "an image that is empty": (image(lambda _: b""), "cannot identify image"),
    "an image that is none": (image(lambda _: b"an image"), "cannot identify image"),
    "half an image": (image(lambda before: before[: len(before) // 2]), "is damaged"),
    "an image of another kind": (image(lambda _: b"GIF89a\1\0\1\0\0\0\0;"), "cannot identify image"),
    "an image with a flipped bit": (
        image(lambda before: before[:60] + bytes([before[60] ^ 1]) + before[61:]),
        "damaged",
    ),
    "an image of absurd size": (sized(60_000, 60_000), "is damaged"),
    "an image of 17 million pixels": (sized(4_097, 4_096), "an image of 4097 x 4096 pixels"),
    "an image without pixels": (sized(8, 8), "is damaged"),
    "an image elsewhere": (row(image={"bytes": None, "path": "/etc/hostname"}), "is a path"),
    "an unknown task": (row(task="product"), "is of an unknown task"),
    "an id that comes twice": (row(id="digits-0-test-0000000-list"), "is in it twice"),
    "a solution that is wrong": (row(solution="42"), "does not earn full marks"),
    "a text that is not UTF-8": (table(not_utf8), "is damaged"),
    "no manifest": (gone(MANIFEST), "no manifest.json in it"),
    "an empty manifest": (text(MANIFEST, ""), "it is no JSON"),
    "half a manifest": (half(MANIFEST), "it is no JSON"),
    "a deep manifest": (text(MANIFEST, DEEP), "deep"),
    "a manifest that is a list": (text(MANIFEST, "[]"), "it holds no object"),
    "a manifest that is not UTF-8": (text(MANIFEST, b'{"a": "\xff"}'), "it is not UTF-8"),
    "a manifest with NaN": (literal(MANIFEST, "n", "NaN"), "no finite number"),
    "a manifest with a huge number": (literal(MANIFEST, "n", "9" * 400), "that is too large"),
    "a manifest with thousands of digits": (literal(MANIFEST, "n", "9" * 5_000), "it is no JSON"),
    "a manifest with a key twice": (literal(MANIFEST, "fingerprint", '"0"'), "a key twice"),
    "a manifest with half a pair": (literal(MANIFEST, "n", '"\\ud800"'), "half of a surrogate pair"),
    "no recipe": (without(MANIFEST, "recipe"), "'recipe'"),
    "a recipe that is a text": (keys(MANIFEST, recipe="digits"), "'recipe'"),
    "an unknown dataset": (keys(MANIFEST, "recipe", dataset="none"), "none"),
    "a size that is a text": (keys(MANIFEST, "recipe", size="30"), "'recipe.size'"),
    "no options": (without(MANIFEST, "recipe", "options", "digits"), "damaged"),
    "an option that is none": (keys(MANIFEST, "recipe", "options", digits=[9, 1]), "damaged"),
    "files that are a list": (keys(MANIFEST, files=[]), "'files'"),
    "a file outside": (keys(MANIFEST, "files", **{f"../{TEST}": "0" * 64}), "'files"),
    "a file anywhere": (keys(MANIFEST, "files", **{"/etc/hostname": "0" * 64}), "'files"),
    "a hash that is none": (keys(MANIFEST, "files", **{TEST: "0"}), f"'files.{TEST}'"),
    "another hash": (keys(MANIFEST, "files", **{TEST: "0" * 64}), AGAIN),
    "no file of a split": (without(MANIFEST, "files", TEST), TEST.partition("-")[0].partition("/")[2]),
    "a fingerprint that moves the cursor": (keys(MANIFEST, fingerprint=TERMINAL), "'fingerprint'"),
    "a version with a picture": (keys(MANIFEST, "versions", numpy=MARKUP), "'versions.numpy'"),
    "a task with a tag": (keys(MANIFEST, "reward_hash", **{"<b>": "0"}), "'reward_hash.<b>'"),
    "a count that is a text": (keys(MANIFEST, "splits", "images", test="9"), "'splits.images.test'"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_damaged_dataset_is_refused_by_what_reads_it(name: str, few: Path, tmp_path: Path) -> None:
    damage, says = DATASETS[name]
    data = Path(shutil.copytree(few / "digits", tmp_path / "data"))
    damage(data)
    out = tmp_path / "out"
    sentence = refused(invoke("evaluation.cli", few / "right.jsonl", "--data", data, "--out", out))
    assert says in sentence
    assert sentence.isprintable()
    refused(invoke("datagen.cli", "export", "lmms-eval", data, "--out", out))
    refused(invoke("datagen.cli", "preview", data, "--split", "test", "--out", out / "preview.png"))
    refused(invoke("datagen.cli", "verify", data, "--all"))
    assert not out.exists() or not any(out.iterdir())


def good_record(data: Path) -> dict[str, Any]:
    """A record as training writes it."""
    return {
        "stage": "grpo",
        "model": "small",
        "base_model": "Qwen/Qwen2.5-VL-3B-Instruct@abc",
        "license": {"license": "apache-2.0"},
        "run_hash": "0123456789abcdef",
        "dataset": str(data),
        "dataset_fingerprint": json.loads((data / MANIFEST).read_text())["fingerprint"],
        "tasks": ["list", "sum"],
        "reward_hash": {"list": "v2-0", "sum": "v2-1"},
        "run": "/runs/digits",
        "seed": 0,
        "settings": {"learning_rate": 1e-5, "lora": {"r": 8}, "optim": "adamw_torch"},
        "hardware": "8 CPU cores",
        "versions": {"torch": "2.13.0"},
        "git_commit": "abc+",
        "step": 3,
        "checkpoint": "0123456789abcdef-3",
        "shown": "6 steps of GRPO on questions without a trace.",
        "beside": [{"name": "supervised", "accuracy": 0.7, "accuracy_ci95": [0.6, 0.8], "n": 40}],
    }


RECORDS: dict[str, tuple[Damage, str]] = {
    "an empty record": (text(RECORD, ""), "it is no JSON"),
    "half a record": (half(RECORD), "it is no JSON"),
    "a deep record": (text(RECORD, DEEP), "deep"),
    "a record that is a list": (text(RECORD, "[]"), "it holds no object"),
    "a record that is not UTF-8": (text(RECORD, b'{"shown": "\xff"}'), "it is not UTF-8"),
    "a record that is a folder": (a_folder(RECORD), "can't read"),
    "a record with infinity": (literal(RECORD, "n", "Infinity"), "no finite number"),
    "a record with a key twice": (literal(RECORD, "stage", '"base"'), "a key twice"),
    "a text that moves the cursor": (keys(RECORD, shown=TERMINAL), "'shown'"),
    "a text that turns the writing": (keys(RECORD, base_model=BIDI), "'base_model'"),
    "a text on two lines": (keys(RECORD, shown="a\n# b"), "'shown'"),
    "a text without end": (keys(RECORD, shown="a" * 30_000), "30000 characters"),
    "a stage with a tag": (keys(RECORD, stage="<b>"), "'stage'"),
    "a task that is a picture": (keys(RECORD, tasks=["![](x)"]), "'tasks.0'"),
    "a setting with a tag": (keys(RECORD, settings={"<b>": 1}), "'settings.<b>'"),
    "a step that is a text": (keys(RECORD, step="3"), "'step'"),
    "a step below zero": (keys(RECORD, step=-1), "'step'"),
    "hashes in a list": (keys(RECORD, reward_hash=["v2-0"]), "'reward_hash'"),
    "a hash that is a number": (keys(RECORD, reward_hash={"sum": 5}), "'reward_hash.sum'"),
    "a result without numbers": (keys(RECORD, beside=[{"name": "a"}]), "holds no result"),
    "a result whose name moves the cursor": (
        keys(RECORD, beside=[{"name": TERMINAL, "accuracy": 1, "accuracy_ci95": [0, 1], "n": 1}]),
        "'name'",
    ),
    "a dataset that is none": (keys(RECORD, dataset="/etc"), "is not a dataset folder"),
    "no configuration": (gone("config.json"), "no config.json"),
    "no weights": (gone("model.safetensors"), "no weights"),
    "no processor": (gone("processor_config.json"), "no processor"),
}
CHECKPOINTS: dict[str, tuple[Damage, str]] = {
    "weights of another file": (text(INDEX, '{"weight_map": {"a": "../a.safetensors"}}'), "names other files"),
    "weights that are gone": (text(INDEX, '{"weight_map": {"a": "a.safetensors"}}'), "damaged weights (a.safetensors"),
    "an index of no files": (text(INDEX, '{"weight_map": 5}'), "damaged weights"),
    "a deep index": (text(INDEX, DEEP), "deep"),
    "a deep adapter": (text("adapter_config.json", DEEP), "deep"),
    "a deep tokenizer": (text("tokenizer.json", DEEP), "can't be loaded"),
    "a tokenizer that is not UTF-8": (text("tokenizer.json", b"\xff"), "can't be loaded"),
    "a tokenizer without a model": (keys("tokenizer.json", model={}), "can't be loaded"),
    "deep settings of the tokenizer": (text("tokenizer_config.json", DEEP), "can't be loaded"),
    "deep settings of the generation": (text("generation_config.json", DEEP), "can't be loaded"),
    "deep settings of the processor": (text("processor_config.json", DEEP), "can't be loaded"),
    "a tokenizer that is a folder": (a_folder("tokenizer.json"), "can't be loaded"),
    "a configuration that is not UTF-8": (text("config.json", b'{"a": "\xff"}'), "it is not UTF-8"),
    "a configuration that is a folder": (a_folder("config.json"), "no config.json"),
    "a width that is a text": (keys("config.json", "text_config", hidden_size="x"), "can't be loaded"),
    "no heads": (keys("config.json", "text_config", num_attention_heads=0), "can't be loaded"),
    "an unknown kind of model": (keys("config.json", model_type=TERMINAL), "can't be loaded"),
    "a model that is larger than its weights": (keys("config.json", text_config=None), "its weights hold"),
    "no patches of an image": (keys("processor_config.json", "image_processor", patch_size=0), "can't be loaded"),
    "images that are a text": (keys("processor_config.json", "image_processor", rescale_factor="x"), "can't be loaded"),
    "images of absurd size": (
        keys("processor_config.json", "image_processor", size={"shortest_edge": 10**11, "longest_edge": 10**11}),
        "more than 134217728 pixels",
    ),
    "a processor without images": (keys("processor_config.json", processor_class="X"), "no image processor"),
    "a length that is a text": (keys("tokenizer_config.json", model_max_length="x"), "can't be loaded"),
    "an image token that is none": (keys("config.json", image_token_id=10**9), "can't be loaded"),
    "windows of no size": (keys("config.json", "vision_config", window_size=0), "can't be loaded"),
    "an end that is a text": (keys("generation_config.json", eos_token_id="x"), "can't be loaded"),
    "a million layers": (keys("config.json", "text_config", num_hidden_layers=10**6, layer_types=None), "its weights"),
}


@pytest.fixture
def checkpoint(random_checkpoint: Path, few: Path, tmp_path: Path) -> Path:
    """The checkpoint of step 3 of a run that says what made it."""
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "run" / "checkpoint-3"))
    record = good_record(few / "digits") | {"run": str(tmp_path / "run")}
    (folder / RECORD).write_text(json.dumps(record))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.1}\n{"step": 2, "reward": 0.2}\n')
    return folder


def evaluate(folder: Path, *words: str | Path) -> Any:
    """Call the evaluation of a checkpoint on one question."""
    out = folder.parent.parent / "out"
    return invoke("evaluation.cli", folder, "--limit", "1", "--max-new-tokens", "1", "--out", out, *words)


@pytest.mark.parametrize("name", RECORDS | CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(name: str, checkpoint: Path, few: Path) -> None:
    damage, says = (RECORDS | CHECKPOINTS)[name]
    damage(checkpoint)
    sentence = refused(evaluate(checkpoint))
    assert says in sentence
    assert sentence.isprintable()


FILES: dict[str, tuple[str, str | bytes, str]] = {
    "a deep result": ("--beside", DEEP, "deep"),
    "a result with NaN": ("--beside", '{"accuracy": NaN, "accuracy_ci95": [0, 1], "n": 3}', "no finite number"),
    "a result with a text": (
        "--beside",
        '{"accuracy": "1", "accuracy_ci95": [0, 1], "n": 3}',
        "'accuracy'",
    ),
    "a result above one": ("--beside", '{"accuracy": 2, "accuracy_ci95": [0, 1], "n": 3}', "'accuracy'"),
    "a result of half an interval": ("--beside", '{"accuracy": 1, "accuracy_ci95": [0], "n": 3}', "'accuracy_ci95'"),
    "a result of no question": ("--beside", '{"accuracy": 1, "accuracy_ci95": [0, 1], "n": 0}', "'n'"),
    "a result that is not UTF-8": ("--beside", b"\xff", "it is not UTF-8"),
    "aliases without end": ("settings", NAMED_AGAIN, "values"),
    "a key twice": ("settings", "data: a\ndata: b\n", "twice"),
    "deep settings": ("settings", "[" * 3_000, "is not valid YAML"),
    "settings that are not UTF-8": ("settings", b"data: \xff\n", "is not valid YAML"),
    "settings that are a list": ("settings", "- data\n", "holds no configuration"),
    "a number of thousands of digits": ("settings", "limit: " + "9" * 5_000, "is not valid YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(name: str, few: Path, tmp_path: Path) -> None:
    kind, content, says = FILES[name]
    file = tmp_path / ("eval.yaml" if kind == "settings" else "other.json")
    text(file.name, content)(tmp_path)
    words = [file] if kind == "settings" else [few / "right.jsonl", kind, file, "--data", few / "digits"]
    sentence = refused(invoke("evaluation.cli", *words, "--out", tmp_path / "out"))
    assert says in sentence
    assert not (tmp_path / "out").exists()


def test_a_record_is_believed_only_where_its_run_holds_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.html"
    assert evaluate(checkpoint, "--report").returncode == 0
    assert "<polyline" in report.read_text()
    for wrong in ({"run": str(tmp_path)}, {"step": 30}, {"run": "/"}):
        keys(RECORD, **{"run": str(checkpoint.parent), "step": 3, **wrong})(checkpoint)
        assert evaluate(checkpoint, "--report").returncode == 0
        assert "<polyline" not in report.read_text(), wrong


def test_a_card_shows_a_records_texts_as_they_are(checkpoint: Path) -> None:
    keys(RECORD, shown=MARKUP, hardware=MARKUP, base_model=MARKUP, settings={"a": MARKUP + TERMINAL})(checkpoint)
    card = model_card(read_record(checkpoint), repo="ada/model")
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card.split("---\n", 2)[2])
    assert not re.findall(r"<(?:a|img|em|script)\b[^>]*", html)
    assert html.count("<strong>") == 1
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    assert "\x1b" not in card
    assert "base_model:" not in card


ODD: dict[str, tuple[Damage, str]] = {
    "no step": (lambda run: shutil.copytree(run / "checkpoint-3", run / "checkpoint-best"), "its name is not"),
    "nothing for a step": (lambda run: (run / "checkpoint-").mkdir(), "its name is not"),
    "half written": (lambda run: (run / "checkpoint-2.tmp").mkdir(), "its name is not"),
    "no weights": (
        lambda run: (Path(shutil.copytree(run / "checkpoint-3", run / "checkpoint-2")) / "model.safetensors").unlink(),
        "it has no weights",
    ),
    "half of the weights": (
        lambda run: half("model.safetensors")(Path(shutil.copytree(run / "checkpoint-3", run / "checkpoint-2"))),
        "has damaged weights",
    ),
    "an empty folder": (lambda run: (run / "checkpoint-2").mkdir(), "it has no config.json"),
    "a file": (lambda run: (run / "checkpoint-2").touch(), "it is no folder"),
    "a link to nothing": (lambda run: (run / "checkpoint-2").symlink_to("gone"), "it is no folder"),
    "a damaged record": (
        lambda run: text(RECORD, "{")(Path(shutil.copytree(run / "checkpoint-3", run / "checkpoint-2"))),
        "it is no JSON",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_of_a_run_folder_the_whole_checkpoints_are_taken(name: str, checkpoint: Path, few: Path) -> None:
    run = checkpoint.parent
    shutil.copytree(checkpoint, run / "checkpoint-1")
    keys(RECORD, step=1)(run / "checkpoint-1")
    damage, says = ODD[name]
    damage(run)
    for words in ([run, "--curve"], [checkpoint, "--report"]):
        done = evaluate(words[0] if words[0] == run else checkpoint, *words[1:], "--data", few / "digits")
        assert done.returncode == 0, done.stderr
        assert "is left out" in done.stdout
        assert says in done.stdout
    assert [path.name for path in whole_checkpoints(run)[0]][:1] == ["checkpoint-1"]
    assert ">step 1<" in (run.parent / "out" / "report.html").read_text()

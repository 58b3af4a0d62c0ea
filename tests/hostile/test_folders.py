"""Folders and files of somebody else's, each damaged in one way: one sentence that says what to do, and nothing else.

A case is a name, what damages the good thing, and what the sentence says. None of them hangs, or harms what reads it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.damage import (
    DEEP,
    MANIFEST,
    MARKUP,
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

RECORD, RESULT = "r1vlm.json", "results.json"
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

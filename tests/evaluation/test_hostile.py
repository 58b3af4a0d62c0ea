"""What a model says may be anything: it breaks neither the terminal, nor the JSON, nor the page."""

from __future__ import annotations

import json
import unicodedata
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format
from tests.evaluation.conftest import read
from tests.evaluation.server import playing, reply
from tests.processes import invoke, run

SCORES = ("n", "accuracy", "accuracy_ci95", "rewards", "slices", "findings")
MARK = "HOSTILE"  # is in every text, to find it where it does not belong


def answered(text: str) -> str:
    """What a model generates to say this in its reasoning and as its answer."""
    return r1_format.completion_of(r1_format.format_solution(text, text))


TEXTS: list[str | bytes] = [
    answered(f"{MARK}<script>alert(1)</script><img src=x onerror=alert(1)>"),
    answered(f"{MARK}</pre></article></script><!--"),
    answered(f"{MARK}\x1b[31m\x1b]0;title\x07\x1b[2J\x9b31m\r\b"),
    answered(f"{MARK}\x00 NUL"),
    answered(f"{MARK}\u202e turned \u2066 around \u200f"),
    answered(f"{MARK}\ud800 half \udfff of a pair"),
    answered(f"{MARK}\u2028\u2029\ufeff\u0085"),
    answered(f"{MARK}{{{{ 1/0 }}}}{{% raw %}}"),
    f"{MARK}</think><answer>{'9' * 1_000_000}</answer>",
    f"{MARK}\U0001f600\x1b" * 100_000,
    "",
    # bytes that are no UTF-8, in a response that is JSON otherwise
    json.dumps(reply(f"{MARK}@@@")).encode().replace(b"@@@", b"\xff\xfe\xc3\x28\xed\xa0\x80"),
]


@pytest.fixture(scope="module")
def evaluated(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the whole command leaves, as a process of its own, and all that it prints."""
    out = tmp_path_factory.mktemp("hostile") / "out"

    turns = cycle(TEXTS)
    with playing(lambda _: next(turns)) as server:
        words = ["--endpoint", server.address, "--data", digits_folder, "--controls", "--report", "--log-samples"]
        done = run("evaluation.cli", "served", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout + done.stderr


def assert_calm(text: str, also: str = "\n\t") -> None:
    """No character of `text` controls a terminal, turns the direction of writing, or is half a pair."""
    wild = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in also}
    assert not wild, sorted(map(hex, map(ord, wild)))


def test_nothing_reaches_the_terminal(evaluated: tuple[Path, str]) -> None:
    _, printed = evaluated
    assert "accuracy" in printed
    assert_calm(printed.replace("\r", ""))  # the progress bar's
    assert MARK not in printed


def test_every_text_was_said(evaluated: tuple[Path, str]) -> None:
    out, _ = evaluated
    said = {json.loads(line)["completion"] for line in (out / "completions.jsonl").read_bytes().splitlines()}
    whole = {r1_format.full_message(text) for text in TEXTS if isinstance(text, str)}
    assert whole < said
    assert said - whole == {r1_format.full_message(f"{MARK}\ufffd\ufffd\ufffd(\ufffd\ufffd\ufffd")}


def test_every_file_is_json_in_utf8(evaluated: tuple[Path, str]) -> None:
    from datasets import load_dataset

    out, _ = evaluated
    files = {path.name for path in out.iterdir()}
    names = {"results.json", "completions.jsonl", "rows.jsonl", "samples_list.jsonl", "samples_sum.jsonl"}
    assert files == {*names, "report.html"}
    for name in names:
        text = (out / name).read_bytes().decode("utf-8")
        values: list[Any] = [json.loads(text)] if name == "results.json" else [*map(json.loads, text.splitlines())]
        assert values
        if name.startswith(("rows", "samples")):  # completions are kept to the letter: Arrow refuses half a pair
            assert len(load_dataset("json", data_files=str(out / name), split="train")) == len(values)


def test_the_page_is_small_and_calm(evaluated: tuple[Path, str]) -> None:
    out, _ = evaluated
    page = (out / "report.html").read_bytes()
    assert len(page) < 5_000_000
    text = page.decode("utf-8")
    assert_calm(text)
    assert MARK in text
    for tag in (f"{MARK}<", "<script>alert", "<img src=x"):
        assert tag not in text


def test_scoring_again_gives_the_same_numbers(evaluated: tuple[Path, str], digits_folder: Path, tmp_path: Path) -> None:
    out, _ = evaluated
    done = invoke("evaluation.cli", out / "completions.jsonl", "--data", digits_folder, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    one, other = read(out / "results.json"), read(tmp_path / "again" / "results.json")
    kept = [name for name in SCORES if name != "findings"]  # the controls need the model
    assert {key: one[key] for key in kept} == {key: other[key] for key in kept}
    assert (out / "completions.jsonl").read_bytes() == (tmp_path / "again" / "completions.jsonl").read_bytes()


def test_one_answer_whatever_the_question_is_quoted_calmly(digits_folder: Path, tmp_path: Path) -> None:
    with playing(lambda _: answered("\x1b[31m\u202e\x00\ud800<b>")) as server:
        words = ["--endpoint", server.address, "--data", digits_folder, "--report", "--out", tmp_path / "out"]
        done = invoke("evaluation.cli", "served", *words)
    assert done.returncode == 0, done.stderr
    assert_calm((done.stdout + done.stderr).replace("\r", ""))
    said = "sum: 100.0% of the answers are '\\x1b[31m\\u202e\\x00\\ud800<b>', whatever the question."
    assert said in done.stdout
    assert said in read(tmp_path / "out" / "results.json")["findings"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert_calm(page)
    assert "\\ud800&lt;b&gt;" in page


def test_a_server_whose_models_have_wild_names(digits_folder: Path, tmp_path: Path) -> None:
    with playing(lambda _: "", model="\x1b[31m\u202ewild") as server:
        done = invoke(
            "evaluation.cli", "served", "--endpoint", server.address, "--data", digits_folder, "--out", tmp_path
        )
    assert done.returncode == 2
    assert_calm(done.stderr)
    assert "has no model served: name one of  [31m wild" in done.stderr

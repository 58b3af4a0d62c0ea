"""Models that do not do what is asked are called what they are: on the terminal, in the JSON and on the page.

The whole command asks a server on loopback that plays them.
"""

from __future__ import annotations

import html
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format as r1
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from evaluation.backends.base import Prompt
from evaluation.prompt_variants import R1, ablation_variants
from tests.conftest import MakeOnce
from tests.evaluation.conftest import Call, read, write_lines
from tests.evaluation.server import playing

Say = Callable[[Prompt], str]
Describe = Callable[[Say, Path], "tuple[Described, Described]"]


def text_of(prompt: Prompt) -> str:
    """The user's question."""
    return str(prompt.messages[-1]["content"])


@dataclass(frozen=True)
class Described:
    """What the command says of a model: all that it prints, its JSON, and the text of the page."""

    printed: str
    record: dict[str, Any]
    page: str


@pytest.fixture(scope="module")
def words_folder(make_once: MakeOnce) -> Path:
    return make_once("words", lambda out: build(DatasetConfig(dataset="words", size=100, seed=0), out, executor=map))


@pytest.fixture
def described(tmp_path: Path, r1vlm_eval: Call) -> Describe:
    """Ask a model all questions of the train split: alone, and against completions that are all wrong.

    The second time its answers are cached.
    """

    def ask(say: Say, data: Path) -> tuple[Described, Described]:
        ids = open_dataset(data).questions("train")["id"]
        wrong = write_lines(tmp_path / "wrong.jsonl", dict.fromkeys(ids, "I don't know."))
        with playing(say) as server:
            common = ("served", "--endpoint", server.address, "--data", data, "--split", "train", "--controls")
            alone = describe(common, tmp_path / "alone")
            compared = describe((*common, "--baseline", wrong), tmp_path / "compared")
        return alone, compared

    def describe(words: tuple[object, ...], out: Path) -> Described:
        called = r1vlm_eval(*words, "--report", "--out", out)
        assert called.returncode == 0, called.stderr
        record = read(out / ("comparison.json" if "--baseline" in words else "results.json"))
        page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
        for finding in record["findings"]:
            assert finding in called.stdout
            assert finding in page
        return Described(called.stdout, record, page)

    return ask


def most_frequent(data: Path) -> tuple[Say, dict[str, str]]:
    """A model that always answers the most frequent label of the task; and these labels."""
    rows = open_dataset(data).questions("train").remove_columns("image").to_list()
    task_of = {row["prompt"][-1]["content"]: row["task"] for row in rows}
    labels = {
        task: Counter(row["answer"] for row in rows if row["task"] == task).most_common(1)[0][0]
        for task in set(task_of.values())
    }
    return lambda prompt: r1.completion_of(r1.format_solution("I see it.", labels[task_of[text_of(prompt)]])), labels


def copies(prompt: Prompt) -> str:
    """A model that copies the example answer of the instruction."""
    example = re.findall(r"<answer>(.*?)</answer>", text_of(prompt) + prompt.messages[0]["content"])[-1]
    return r1.completion_of(r1.format_solution("I see it.", example.strip()))


def blind(data: Path) -> Say:
    """A model that needs the question alone: it has seen every coded text."""
    known = {row["prompt"][-1]["content"]: row["solution"] for row in open_dataset(data).questions("train")}
    return lambda prompt: r1.completion_of(known[text_of(prompt)])


def honest(data: Path) -> Say:
    """A model that answers what its image shows, also where letters are exchanged in it; and else guesses."""
    built = open_dataset(data)
    rows = built.questions("train")
    questions = rows.remove_columns("image").to_list()
    known = {}
    for variant in (R1, *ablation_variants(built.spec, built.manifest["recipe"]["options"])):
        if variant.name in ("r1", "exchanged"):
            for place, question in enumerate(variant.ground_truths(rows, questions)):
                prompt = variant.prompt(rows, place)
                task = next(task for task in built.spec.tasks if task.name == question["task"])
                right = r1.format_solution(task.solve(question), task.answer(question))
                known[prompt.shown[0].tobytes(), text_of(prompt)] = right

    def say(prompt: Prompt) -> str:
        pixels = prompt.shown[0].tobytes()
        guess = questions[zlib.crc32(pixels + text_of(prompt).encode()) % len(questions)]["answer"]
        return r1.completion_of(known.get((pixels, text_of(prompt))) or r1.format_solution("Perhaps this.", guess))

    return say


def test_the_most_frequent_label(digits_folder: Path, described: Describe) -> None:
    say, labels = most_frequent(digits_folder)
    alone, compared = described(say, digits_folder)
    for task, label in labels.items():
        finding = (
            f"{task}: 100.0% of the answers are {label!r} (the most frequent right answer), whatever the question."
        )
        assert finding in alone.record["findings"]
    accuracy = alone.record["accuracy"]
    assert 0 < accuracy < 0.2
    assert all(control["accuracy"] == accuracy for control in alone.record["controls"].values())
    assert any(finding.startswith("It does not need the image: ") for finding in alone.record["findings"])
    assert ", but not by looking at the images" in compared.record["verdict"]
    assert compared.record["verdict"] in compared.printed


def test_the_example_of_the_instruction(digits_folder: Path, described: Describe) -> None:
    alone, compared = described(copies, digits_folder)
    assert alone.record["accuracy"] == 0
    assert alone.record["findings"] == [
        f"{task}: 100.0% of the answers are the example of the instruction, whatever the question."
        for task in ("list", "sum")
    ]
    assert compared.record["verdict"].startswith("No change in accuracy can be told: from 0.0% to 0.0%")


def test_a_model_that_ignores_the_image(words_folder: Path, described: Describe) -> None:
    alone, compared = described(blind(words_folder), words_folder)
    assert alone.record["accuracy"] == 1
    assert {name: row["accuracy"] for name, row in alone.record["controls"].items()} == {
        "blank": 1,
        "other": 1,
        "exchanged": 0,
    }
    assert alone.record["findings"] == [
        "It does not need the image: with an empty image 100.0% of the answers are right, with its own 100.0%.",
        "It does not follow what the image shows: with two letters exchanged in the image 0.0% of the answers are "
        "right, with its own 100.0%.",
    ]
    rose = "Accuracy rose by 100.0 points, from 0.0% to 100.0%, but not by looking at the images"
    assert compared.record["verdict"].startswith(rose)
    assert rose in compared.page


@pytest.mark.parametrize("folder", ["digits_folder", "words_folder"])
def test_an_honest_model(folder: str, described: Describe, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(folder)
    alone, compared = described(honest(data), data)
    assert alone.record["accuracy"] == 1
    assert alone.record["controls"]["blank"]["accuracy"] < 0.2
    assert alone.record["controls"]["other"]["accuracy"] < 0.2
    assert alone.record["controls"].get("exchanged", {"accuracy": 1})["accuracy"] == 1
    assert alone.record["findings"] == []
    assert compared.record["verdict"].startswith("Accuracy rose by 100.0 points, from 0.0% to 100.0% (")

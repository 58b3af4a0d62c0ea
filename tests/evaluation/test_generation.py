"""Answers are asked for once: by any engine, after a kill, of a server that fails, several times, without the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format
from datagen.dataset.reader import open_dataset
from datagen.dataset.shards import make_questions
from datagen.registry import TASKS
from datagen.task import DatasetSpec
from datagen.tasks.judges import JUDGES, OWN, sample_rows
from evaluation.backends.base import Prompt
from evaluation.metrics.ablations import findings
from evaluation.metrics.scoring import majority_right, score_messages
from evaluation.prompt_variants import DIRECT, ablation_variants
from tests.evaluation.conftest import Call, read, solutions, write_lines
from tests.evaluation.server import playing, serving
from tests.processes import kill_when

SCORES = ("n", "accuracy", "accuracy_ci95", "rewards", "slices", "findings")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        random_checkpoint,
        "--data",
        digits_folder,
        "--limit",
        "24",
        "--max-new-tokens",
        "8",
        "--batch-size",
        "2",
        "--out",
    ]
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "cache"))

    def kept() -> list[dict[str, Any]]:
        files = list((tmp_path / "cache").rglob("*.jsonl"))
        whole = [line for file in files for line in file.read_bytes().split(b"\n")[:-1]]
        return [value for value in map(json.loads, whole) if "id" in value]

    kill_when(lambda: len(kept()) >= 6, "evaluation.cli", *words, tmp_path / "out")
    before = kept()
    assert 6 <= len(before) < 24
    assert not (tmp_path / "out" / "results.json").exists()
    assert r1vlm_eval(*words, tmp_path / "out").returncode == 0
    assert kept()[: len(before)] == before
    assert len(kept()) == len({line["id"] for line in kept()}) == 24  # nothing was asked twice
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "other"))
    assert r1vlm_eval(*words, tmp_path / "undisturbed").returncode == 0
    one, other = (read(tmp_path / name / "results.json") for name in ("out", "undisturbed"))
    assert {key: one[key] for key in SCORES} == {key: other[key] for key in SCORES}


def test_a_server_answers_as_the_model_here_even_where_it_fails(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    common = ("--data", digits_folder, "--max-new-tokens", 12, "--out")
    assert r1vlm_eval(random_checkpoint, *common, tmp_path / "here").returncode == 0
    with serving(random_checkpoint, 12) as server:
        server.fails = 5  # a fifth of the requests
        called = r1vlm_eval("served", "--endpoint", server.address, "--batch-size", 4, *common, tmp_path / "there")
        assert called.returncode == 0, called.stderr
        assert server.asked == 40 + server.failed
        assert server.failed >= 8
        again = r1vlm_eval("served", "--endpoint", server.address, *common, tmp_path / "again")
        assert "all 40 answers are there already" in again.stdout
        assert "of this server: where it has other weights by now, set R1VLM_CACHE" in again.stdout
        assert server.asked == 40 + server.failed
        wrong = r1vlm_eval("other", "--endpoint", server.address, *common, tmp_path / "wrong")
        assert "has no model other: name one of served" in wrong.stderr
    here, there = (read(tmp_path / name / "results.json") for name in ("here", "there"))
    assert (tmp_path / "here/completions.jsonl").read_text() == (tmp_path / "there/completions.jsonl").read_text()
    assert {key: here[key] for key in SCORES} == {key: there[key] for key in SCORES}
    assert there["engine"]["name"] == "openai"


def test_several_samples(random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call) -> None:
    words = (random_checkpoint, "--data", digits_folder, "--limit", 5, "--max-new-tokens", 4, "--out", tmp_path / "o")
    called = r1vlm_eval(*words, "--samples", 4, "--report")
    assert called.returncode == 0, called.stderr
    assert "of 20 answers to 5 questions are right</h1>" in (tmp_path / "o" / "report.html").read_text()
    result = read(tmp_path / "o" / "results.json")
    assert (result["n"], result["samples"], set(result["pass_at"])) == (20, 4, {"1", "2", "4"})
    assert result["settings"]["temperature"] == 1.0
    written = lines(tmp_path / "o" / "completions.jsonl")
    assert [line.get("sample", 0) for line in written] == [0, 1, 2, 3] * 5
    assert len({line["completion"] for line in written[:4]}) > 1
    called = r1vlm_eval(tmp_path / "o/completions.jsonl", *words[1:-1], tmp_path / "again", "--samples", 4)
    assert called.returncode == 0, called.stderr
    assert read(tmp_path / "again" / "results.json")["majority"] == result["majority"]
    assert "raise --temperature" in r1vlm_eval(*words, "--samples", 2, "--temperature", 0).stderr


def test_the_majority() -> None:
    assert majority_right([("3", False), ("4", True), ("4", True)])
    assert not majority_right([("3", False), ("4", True), ("3", False)])
    assert majority_right([(None, False), (None, False), ("4", True)])
    assert not majority_right([(None, False)])


@pytest.mark.parametrize("name", ["digits", "counting", "words", "messages"])
def test_variants_ask_what_they_say(name: str, small_datasets: dict[str, Path]) -> None:
    built = open_dataset(small_datasets[name])
    rows = built.questions("train")
    questions = rows.remove_columns("image").to_list()
    for place, question in enumerate(questions):
        assert score_messages([question], [DIRECT.full_message(question, question["answer"])]).correctness == 1
        assert (
            score_messages(
                [question], [DIRECT.full_message(question, TASKS[question["task"]].example_answer)]
            ).correctness
            == 0
        )
        prompt = DIRECT.prompt(rows, place)
        assert not prompt.opening
        assert "think" not in prompt.messages[0]["content"]
    found = {one.name: one for one in ablation_variants(built.spec, built.manifest["recipe"]["options"])}
    assert found.keys() == {"blank", "other", *({"exchanged"} if name in ("words", "messages") else ())}
    for place in range(5):
        image = rows[place]["image"]
        assert len(found["blank"].prompt(rows, place).shown[0].getcolors()) == 1
        assert found["other"].prompt(rows, place).shown[0].tobytes() != image.tobytes()
    if "exchanged" in found:
        judged = found["exchanged"].ground_truths(rows, questions)
        for place, (question, other) in enumerate(zip(questions, judged, strict=True)):
            assert other["coded_message"] == question["coded_message"]
            assert other["message"] != question["message"]
            letters = str.maketrans(dict(zip(question["key"], other["key"], strict=True)))
            assert question["message"].translate(letters) == other["message"]
            assert sum(a != b for a, b in zip(question["key"], other["key"], strict=True)) == 2
            right = r1_format.format_solution(TASKS[other["task"]].solve(other), other["message"])
            assert score_messages([other], [right]).correctness == 1
            assert score_messages([question], [right]).correctness == 0
            assert found["exchanged"].prompt(rows, place).shown[0].tobytes() != rows[place]["image"].tobytes()


@pytest.mark.parametrize("spec", OWN.values(), ids=list(OWN))
def test_a_direct_answer_about_own_images_is_scored(spec: DatasetSpec) -> None:
    judge = JUDGES[spec.name.removeprefix("own-").removesuffix("-images")]
    for question in make_questions(spec, sample_rows(judge)):
        said = DIRECT.full_message(question, question["answer"])
        assert score_messages([question], [said]).correctness == 1


def test_answers_about_another_image_are_kept_for_that_image(
    small_datasets: dict[str, Path], tmp_path: Path, r1vlm_eval: Call
) -> None:
    asked = set()

    def say(prompt: Prompt) -> str:
        asked.add((prompt.messages[-1]["content"], prompt.shown[0].tobytes()))
        return "So.</think>\n<answer>so</answer>"

    with playing(say) as server:
        for limit in (2, 10):  # the image after the second is the first one, and then the third
            words = ("--endpoint", server.address, "--data", small_datasets["words"], "--split", "train", "--controls")
            called = r1vlm_eval("served", *words, "--limit", limit, "--out", tmp_path / str(limit))
            assert called.returncode == 0, called.stderr
    built = open_dataset(small_datasets["words"])
    rows = built.questions("train").select(range(10))
    options = built.manifest["recipe"]["options"]
    other = next(one for one in ablation_variants(built.spec, options) if one.name == "other")
    for prompt in (other.prompt(rows, place) for place in range(10)):
        assert (prompt.messages[-1]["content"], prompt.shown[0].tobytes()) in asked


def test_findings(questions: list[dict[str, Any]]) -> None:
    by_task = {task: [q for q in questions if q["task"] == task] for task in ("list", "sum")}

    def said(answer: Any, ablations: dict[str, Any] | None = None) -> str:
        messages = [r1_format.format_solution("So.", answer(question)) for question in questions]
        return " ".join(findings(score_messages(questions, messages), ablations or {}))

    most = max((q["answer"] for q in by_task["sum"]), key=[q["answer"] for q in by_task["sum"]].count)
    said_most = f"sum: 100.0% of the answers are {most!r} (the most frequent right answer), whatever the question"
    assert said_most in said(lambda _: most)
    assert "sum: 100.0% of the answers are the example of the instruction" in said(
        lambda question: TASKS[question["task"]].example_answer
    )
    assert said(lambda question: question["answer"]) == ""

    def blank(accuracy: float, low: float, high: float) -> dict[str, Any]:
        return {"blank": {"accuracy": accuracy, "title": "an empty image", "lost_ci95": [low, high]}}

    def right(question: dict[str, Any]) -> str:
        return str(question["answer"])

    assert said(right, blank(0.1, 0.8, 1.0)) == ""
    assert said(right, blank(0.6, 0.2, 0.6)) == ""  # it may be more than half that is lost
    assert "It does not need the image: with an empty image 95.0%" in said(right, blank(0.95, -0.05, 0.15))
    less = "It needs the image for less than half of its right answers: with an empty image 70.0%"
    assert less in said(right, blank(0.7, 0.2, 0.4))
    changed = {"title": "two letters exchanged in the image"}
    assert "It does not follow" in said(right, {"exchanged": {**changed, "accuracy": 0.0, "lost_ci95": [0.9, 1.0]}})
    assert said(right, {"exchanged": {**changed, "accuracy": 0.9, "lost_ci95": [0.0, 0.2]}}) == ""


def test_one_right_answer_in_another_spelling_is_no_finding() -> None:
    [question, *_] = make_questions(OWN["own-exact"], sample_rows(JUDGES["exact"]))
    said = r1_format.format_solution("So.", question["answer"].upper())
    scored = score_messages([question] * 10, [said] * 10)
    assert scored.correctness.mean() == 1
    assert findings(scored, {}) == []


def test_no_image_stands_for_another_one(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    words = (random_checkpoint, "--data", digits_folder, "--limit", 2, "--max-new-tokens", 4, "--controls")
    called = r1vlm_eval(*words, "--out", tmp_path / "out")  # a list and a sum of one image
    assert called.returncode == 0, called.stderr
    assert "note: nothing is asked with another example's image: all questions are about one image" in called.stdout
    assert set(read(tmp_path / "out" / "results.json")["controls"]) == {"blank"}


def test_controls_of_a_model_that_does_not_look(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, r1vlm_eval: Call
) -> None:
    words = (random_checkpoint, "--data", digits_folder, "--limit", 6, "--max-new-tokens", 4, "--controls")
    called = r1vlm_eval(*words, "--report", "--out", tmp_path / "out")
    assert called.returncode == 0, called.stderr
    assert "With an empty image" in (tmp_path / "out" / "report.html").read_text()
    result = read(tmp_path / "out" / "results.json")
    assert set(result["controls"]) == {"blank", "other"}
    assert all(len(one["lost_ci95"]) == 2 for one in result["controls"].values())
    assert "with an empty image" in called.stdout
    done = write_lines(tmp_path / "c.jsonl", solutions([]))
    assert "these are completions" in r1vlm_eval(done, "--data", digits_folder, "--controls").stderr

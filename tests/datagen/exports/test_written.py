"""What is written for each trainer and for inspect_ai, without the tools; the other files here run their own code."""

from __future__ import annotations

import ast
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.dataset.reader import open_dataset
from datagen.export import Tool, verl
from datagen.export.questions import UTILS, check_truth, marked_text, rgb_image
from datagen.registry import registered
from datagen.task import Column
from tests.datagen.exports.answers import answered, worth
from tests.datagen.test_export import function_of
from tests.processes import invoke, refused


@pytest.mark.parametrize("built", ["zoom"], indirect=True)
@pytest.mark.parametrize("tool", sorted({*get_args(Tool)} - {"verifiers"}))
def test_several_turns_are_refused(built: Path, tool: str, tmp_path: Path) -> None:
    done = invoke("datagen.cli", "export", tool, built, "--out", tmp_path / "out")
    assert "tasks of several turns" in refused(done)
    assert not (tmp_path / "out").exists()


ONE_TURN = pytest.mark.parametrize("built", ["digits", "counting", "words", "messages"], indirect=True)
TRAINERS = {
    "easyr1": {"train.parquet", "validation.parquet"},
    "ms-swift": {"train.parquet", "validation.parquet", "plugin.py"},
    "trl": {"train.py"},
    "verl": {"train.parquet", "validation.parquet"},
}


@ONE_TURN
@pytest.mark.parametrize("tool", TRAINERS)
def test_every_answer_gets_our_rewards_under_our_names(built: Path, tool: str, tmp_path: Path) -> None:
    done = invoke("datagen.cli", "export", tool, built, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", f"{UTILS}.py", *TRAINERS[tool]}
    answers = answered(built, "train")
    ours = worth(answers)
    texts = [text for _, text in answers]
    if tool in ("trl", "ms-swift"):
        if tool == "trl":
            said: list[Any] = [[{"role": "assistant", "content": text}] for text in texts]
            columns = {name: [row[name] for row, _ in answers] for name in answers[0][0] if name != "image"}
        else:
            said = [r1_format.full_message(text) for text in texts]
            written = truths(tmp_path, "r1vlm")
            columns = {"r1vlm": [written[row["id"]] for row, _ in answers]}
        for name in ours[0]:
            reward = function_of(tmp_path, f"{UTILS}.reward_function")(name)
            assert reward.__name__ == name
            assert reward(completions=said, trainer_state=None, **columns) == [one[name] for one in ours]
        return
    total = {"verl": "score", "easyr1": "overall"}[tool]
    judge = function_of(tmp_path, f"{UTILS}.compute_score")
    written = truths(tmp_path, {"verl": "reward_model", "easyr1": "ground_truth"}[tool])
    for (row, text), rewards in zip(answers, ours, strict=True):
        known = written[row["id"]]
        if tool == "verl":
            got = judge(data_source="", solution_str=text, ground_truth=known["ground_truth"], extra_info={})
        else:
            got = judge({"response": text, "response_length": 1, "ground_truth": known})
        assert got == {**rewards, total: sum(rewards.values())}


def truths(folder: Path, column: str) -> dict[str, Any]:
    """The cells of a column of the exported questions, by the question's name."""
    cells = pq.read_table(folder / "train.parquet")[column].to_pylist()
    texts = [cell["ground_truth"] if isinstance(cell, dict) else cell for cell in cells]
    return {json.loads(text)["id"]: cell for text, cell in zip(texts, cells, strict=True)}


@ONE_TURN
@pytest.mark.parametrize("tool", ["easyr1", "ms-swift", "verl"])
def test_every_question_is_written_with_its_image(built: Path, tool: str, tmp_path: Path) -> None:
    dataset = open_dataset(built)
    invoke("datagen.cli", "export", tool, built, "--out", tmp_path)
    for split in ("train", "validation"):
        table = pq.read_table(tmp_path / f"{split}.parquet")
        assert table.schema.metadata is None  # that of `datasets` 4 can't be read by `datasets` 3
        for row, written in zip(dataset.questions(split), table.to_pylist(), strict=True):
            system, user = row["prompt"]
            marked = f"<image>{user['content']}"
            if tool == "easyr1":
                assert written["problem"] == marked
            else:
                messages = written["messages" if tool == "ms-swift" else "prompt"]
                assert messages == [system, {"role": "user", "content": marked}]
            [image] = written["images"]
            with Image.open(io.BytesIO(image["bytes"])) as shown:
                assert shown.mode == "RGB"
                assert ImageChops.difference(shown, row["image"]).getbbox() is None


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("P", False), ("RGBA", False), ("L", False), ("1", False)])
def test_an_image_is_written_as_rgb(mode: str, kept: bool) -> None:
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").convert("RGB").convert(mode)
    image.save(buffer, "PNG")
    written = rgb_image(buffer.getvalue())
    assert (written == buffer.getvalue()) == kept
    with Image.open(io.BytesIO(written)) as shown:
        assert shown.mode == "RGB"
        assert ImageChops.difference(shown, image.convert("RGB")).getbbox() is None


def test_a_placeholder_in_a_question_is_refused() -> None:
    row = {"id": "a", "prompt": r1_format.make_prompt("Is <video> here?", "yes")}
    with pytest.raises(UserError, match="question a has <video>"):
        marked_text(row)


@pytest.mark.parametrize("tool", ["easyr1", "ms-swift", "verl"])
def test_the_command_names_the_folder_whatever_it_is_called(tool: str, digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's $HOME"
    assert invoke("datagen.cli", "export", tool, digits_folder, "--out", out).returncode == 0
    command = (out / "README.md").read_text().partition("```sh\n")[2].partition("```")[0].replace("\\\n", "")
    words = [word.rpartition("=")[2] for word in shlex.split(command)]
    assert {str(out / "train.parquet"), str(out / "validation.parquet")} <= set(words)


def test_rewards_that_differ_are_refused_for_verl(digits_folder: Path, tmp_path: Path) -> None:
    built = open_dataset(digits_folder)
    first, second = built.spec.tasks
    spec = replace(built.spec, tasks=(first, replace(second, rewards={"format": second.rewards["format"]})))
    with registered(spec), pytest.raises(UserError, match="digits have different rewards"):
        verl.export(built, tmp_path)


def test_truth_that_is_an_image_is_refused(digits_folder: Path) -> None:
    spec = open_dataset(digits_folder).spec
    columns = {**spec.raw_columns, "scene": Column("image", "the scene")}
    with pytest.raises(UserError, match=r"digits is judged by images \(scene\), which verl can't keep"):
        check_truth(replace(spec, raw_columns=columns, r1_columns=(*spec.r1_columns, "scene")), "verl")


@ONE_TURN
def test_inspect_gets_a_function_a_task(built: Path, tmp_path: Path) -> None:
    dataset = open_dataset(built)
    done = invoke("datagen.cli", "export", "inspect", built, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / f"r1vlm_{dataset.spec.name}.py"
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", f"{UTILS}.py", file.name}
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    asked = set(dataset.questions("test")["task"])
    assert {ast.unparse(function.decorator_list[0]) for function in functions} == {
        f"task(name='r1vlm_{dataset.spec.name}_{task}')" for task in asked
    }

"""A dataset of somebody else's, or one that was damaged on its way: read as its manifest says, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.dataset.manifest import MANIFEST
from datagen.dataset.reader import check_shard, open_dataset
from datagen.task import DatasetSpec
from tests.processes import invoke, refused

TEST_R1 = "r1/test-00000-of-00001.parquet"
Change = Callable[[Path], None]


def rewrite(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], *, fitted: bool) -> Change:
    """Changes the rows of the test split, and with `fitted` their hash in the manifest too."""

    def apply(folder: Path) -> None:
        path = folder / TEST_R1
        schema = pq.read_schema(path)
        pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist()), schema), path)
        if fitted:
            fit(folder)

    return apply


def fit(folder: Path) -> None:
    """Make the manifest say that the test split is what it is now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][TEST_R1] = sha256(folder / TEST_R1)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def in_first_row(**values: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [rows[0] | values, *rows[1:]]


def image_elsewhere(folder: Path) -> None:
    """An image as the path of a file outside the folder."""
    shutil.copy(next(folder.glob("examples/*.png")), folder.parent / "elsewhere.png")
    rewrite(in_first_row(image={"bytes": None, "path": str(folder.parent / "elsewhere.png")}), fitted=True)(folder)


def image_and_path(folder: Path) -> None:
    rewrite(lambda rows: [rows[0] | {"image": rows[0]["image"] | {"path": "a.png"}}, *rows[1:]], fitted=True)(folder)


def other_column_type(folder: Path) -> None:
    table = pq.read_table(folder / TEST_R1)
    at = table.schema.get_field_index("num_digits")
    pq.write_table(table.set_column(at, "num_digits", table["num_digits"].cast("int32")), folder / TEST_R1)
    fit(folder)


def files(**changes: str | None) -> Change:
    """Changes names of files in the manifest; None leaves a file out."""

    def apply(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, new in changes.items():
            digest = manifest["files"].pop(name)
            if new is not None:
                manifest["files"][new] = digest
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return apply


REFUSED: dict[str, tuple[Change, str]] = {
    "another answer": (rewrite(in_first_row(answer="42"), fitted=False), "was changed since it was built"),
    "another image": (rewrite(in_first_row(image={"bytes": b"x", "path": None}), fitted=False), "was changed since"),
    "half a file": (lambda folder: (folder / TEST_R1).write_bytes((folder / TEST_R1).read_bytes()[:999]), "is damaged"),
    "an empty file": (lambda folder: (folder / TEST_R1).write_bytes(b""), "is damaged"),
    "an image elsewhere": (image_elsewhere, "is damaged (the image of digits-3-test-0000000-list is a path)"),
    "an image with a path": (image_and_path, "is a path"),
    "an id twice": (rewrite(lambda rows: [rows[1], *rows[1:]], fitted=True), "is in it twice"),
    "an unknown task": (rewrite(in_first_row(task="product"), fitted=True), "is of an unknown task"),
    "another type of column": (other_column_type, "it has other columns"),
    "no Parquet": (lambda folder: (folder / TEST_R1).write_text("id,task") and fit(folder), "is damaged (Parquet file"),
    "a file outside": (files(**{TEST_R1: "../r1/test-00000-of-00001.parquet"}), "is damaged"),
    "no test split": (files(**{TEST_R1: None}), "names no questions of test"),
    "a deep manifest": (lambda folder: (folder / MANIFEST).write_text('{"a":' * 99_999) and None, "is damaged"),
}


def card_that_points(folder: Path) -> None:
    """A card whose data are in another folder: these have other answers."""
    other = folder.parent / "other"
    shutil.copytree(folder / "r1", other)
    rewrite(in_first_row(answer="42"), fitted=False)(Path(shutil.copytree(folder, folder.parent / "whole")))
    shutil.copy(folder.parent / "whole" / TEST_R1, other)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("path: r1/test-*.parquet", f"path: {other}/test-*.parquet"))
    assert str(other) in (folder / "README.md").read_text()


READ: dict[str, Change] = {
    "unchanged": lambda folder: None,
    "no card": lambda folder: (folder / "README.md").unlink(),
    "a card that is no text": lambda folder: (folder / "README.md").write_bytes(b"\xff\xfe\x00") and None,
    "a card that points elsewhere": card_that_points,
}


@pytest.fixture
def copy(digits_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_folder, tmp_path / "data [1]*{a}?"))


@pytest.fixture(scope="session")
def right_answers(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of completions that are all right."""
    path = tmp_path_factory.mktemp("answers") / "right.jsonl"
    rows = pq.read_table(digits_folder / TEST_R1, columns=["id", "solution"]).to_pylist()
    path.write_text("".join(json.dumps({"id": row["id"], "completion": row["solution"]}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_dataset_that_is_not_what_it_says_is_refused(
    name: str, copy: Path, right_answers: Path, tmp_path: Path
) -> None:
    change, sentence = REFUSED[name]
    change(copy)
    done = invoke("evaluation.cli", right_answers, "--data", copy, "--out", tmp_path / "out")
    assert sentence in refused(done)
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("name", READ)
def test_only_the_files_of_the_manifest_are_read_whatever_the_card_says(
    name: str, copy: Path, right_answers: Path, tmp_path: Path
) -> None:
    READ[name](copy)
    done = invoke("evaluation.cli", right_answers, "--data", copy, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["accuracy"] == 1.0


def test_images_are_rgb_and_rows_in_the_order_of_the_files(digits_folder: Path) -> None:
    rows = open_dataset(digits_folder).questions("train")
    assert rows[0]["image"].mode == "RGB"
    assert rows["id"] == [
        name
        for path in sorted(digits_folder.glob("r1/train-*.parquet"))
        for name in pq.read_table(path, columns=["id"])["id"].to_pylist()
    ]


def test_a_file_found_good_is_remembered_by_its_content_and_by_the_code_that_checks(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "cache"))
    checked: list[str] = []

    def check(path: Path, spec: DatasetSpec, ids: set[str]) -> None:
        checked.append(path.name)
        check_shard(path, spec, ids)

    monkeypatch.setattr("datagen.dataset.reader.check_shard", check)
    first = open_dataset(digits_folder).questions("test")
    moved = Path(shutil.copytree(digits_folder, tmp_path / "moved"))
    assert open_dataset(moved).questions("test")["answer"] == first["answer"]
    assert len(checked) == 1

    rewrite(in_first_row(answer="42"), fitted=True)(moved)  # another file of the same name
    open_dataset(moved).questions("test")
    assert len(checked) == 2

    with monkeypatch.context() as other_code:
        other_code.setattr("datagen.dataset.reader.code_hash", lambda *_: "0" * 64)
        open_dataset(digits_folder).questions("test")
    assert len(checked) == 3


def test_an_id_in_two_files_is_seen_also_in_files_that_are_remembered(
    digits_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / "cache"))
    open_dataset(digits_folder).questions("test")
    twice = Path(shutil.copytree(digits_folder, tmp_path / "twice"))
    shutil.copy(twice / TEST_R1, twice / "r1/test-00001-of-00001.parquet")
    manifest = json.loads((twice / MANIFEST).read_text())
    manifest["files"]["r1/test-00001-of-00001.parquet"] = manifest["files"][TEST_R1]
    (twice / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is in it twice"):
        open_dataset(twice).questions("test")

"""`r1vlm-data verify` proves what is claimed, and names each thing that is not."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.dataset.manifest import MANIFEST, read_manifest, write_card
from datagen.dataset.verify import verify
from datagen.registry import DATASETS
from tests.processes import invoke, refused

TEST_R1 = "r1/test-00000-of-00001.parquet"


def test_everything_is_proven(built: Path) -> None:
    proof = verify(built, every=True)
    assert (proof.files, proof.images, proof.redrawn) == (6 + len(list(built.glob("examples/*.png"))), 80, 80)
    assert proof.solutions >= 80
    assert set(proof.manifest["splits"]["shared_between_splits"].values()) == {0}
    assert set(proof.manifest["audit"]) <= {task.name for task in DATASETS[built.name].tasks}
    assert {tuple(found["broke"]) for found in proof.manifest["audit"].values()} == {()}
    card = (built / "README.md").read_text()
    assert "0 images" in card
    assert re.search(r"\| \w+ \| \d\d \| 0 \|", card), "the card has no audit"


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / TEST_R1).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / TEST_R1).write_bytes(content)


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return fault


def forge_an_answer(folder: Path) -> None:
    """Another answer in a row, with the hash and the fingerprint made to fit."""
    table = pq.read_table(folder / TEST_R1)
    answers = ["forged", *table["answer"].to_pylist()[1:]]
    at = table.schema.get_field_index("answer")
    pq.write_table(table.set_column(at, table.schema.field("answer"), pa.array(answers)), folder / TEST_R1)
    edit(lambda manifest: manifest["files"].update({TEST_R1: sha256(folder / TEST_R1)}))(folder)


def fit(folder: Path, table: pa.Table) -> None:
    """Write the table, with a hash that fits."""
    pq.write_table(table, folder / TEST_R1)
    edit(lambda manifest: manifest["files"].update({TEST_R1: sha256(folder / TEST_R1)}))(folder)


def forge_a_row(folder: Path) -> None:
    table = pq.read_table(folder / TEST_R1)
    fit(folder, pa.concat_tables([table, table.slice(0, 1)]))


def add_a_column(folder: Path) -> None:
    table = pq.read_table(folder / TEST_R1)
    fit(folder, table.append_column("hint", table["answer"]))


def no_parquet(folder: Path) -> None:
    (folder / TEST_R1).write_text("nothing")
    edit(lambda manifest: manifest["files"].update({TEST_R1: sha256(folder / TEST_R1)}))(folder)


def put_below(folder: Path) -> None:
    (folder / "raw" / "below").mkdir()
    (folder / "raw" / "below" / "more").touch()


def edit_the_card(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "0 images" in card
    (folder / "README.md").write_text(card.replace("0 images", "9 images"))


def another_picture(folder: Path) -> None:
    """Put another picture on the card, with its hash in the manifest."""
    picture = next(folder.glob("examples/*.png"))
    picture.write_bytes(picture.read_bytes() + b" ")
    edit(lambda manifest: manifest["files"].update({str(picture.relative_to(folder)): sha256(picture)}))(folder)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit(lambda manifest: manifest.update(fingerprint=hashlib.sha256(json.dumps(files).encode()).hexdigest()))(folder)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped byte": (flip_a_byte, f"{TEST_R1} is not what was built"),
    "a missing shard": (lambda folder: (folder / TEST_R1).unlink(), f"{TEST_R1} is missing"),
    "a strange file": (lambda folder: (folder / "r1" / "more.parquet").touch(), "more.parquet is not in the manifest"),
    "a forged answer": (forge_an_answer, "answer of"),
    "another seed": (edit(lambda m: m["recipe"].update(seed=3)), "its files are not those of its recipe"),
    "another picture": (another_picture, "is not what its recipe draws"),
    "a seed that is text": (edit(lambda m: m["recipe"].update(seed="2")), "damaged ('recipe.seed'"),
    "other shares": (edit(lambda m: m["recipe"].update(shares=[500, 10, 10])), "add up to 100"),
    "no options": (edit(lambda m: m["recipe"].update(options=None)), "damaged ('recipe.options'"),
    "an impossible option": (edit(lambda m: m["recipe"]["options"].update(font="comic")), "damaged or was edited"),
    "an invented option": (edit(lambda m: m["recipe"]["options"].update(certified=True)), "damaged or was edited"),
    "another source": (edit(lambda m: m["recipe"].update(source="mnist-5k")), "is not drawn from mnist-5k"),
    "a source that is a number": (edit(lambda m: m["recipe"].update(source=5)), "damaged ('recipe.source'"),
    "files that are a list": (edit(lambda m: m.update(files=[])), "damaged"),
    "a forged row": (forge_a_row, "does not hold the rows of its recipe"),
    "a column more": (add_a_column, "has other columns"),
    "no Parquet": (no_parquet, "is damaged (Parquet file size is 7 bytes"),
    "a file at the top": (lambda folder: (folder / "more").touch(), "more is not in the manifest"),
    "a file further down": (put_below, "more is not in the manifest"),
    "a null claim": (edit(lambda m: m.update(certified=None)), "certified"),
    "a card with other numbers": (edit_the_card, "README.md"),
    "a card that is no text": (lambda folder: (folder / "README.md").write_bytes(b"\xff"), "README.md"),
    "another size": (edit(lambda m: m["recipe"].update(size=2000)), "its files are not those of its recipe"),
    "another dataset": (edit(lambda m: m["recipe"].update(dataset="none")), "holds the dataset 'none', which"),
    "another version": (edit(lambda m: m["recipe"].update(version="0")), "version"),
    "a hash": (edit(lambda m: m["files"].update({TEST_R1: "0" * 64})), f"{TEST_R1} is not what was built"),
    "a file left out": (edit(lambda m: m["files"].pop(TEST_R1)), TEST_R1),
    "the fingerprint": (edit(lambda m: m.update(fingerprint="0" * 64)), "fingerprint"),
    "the source": (edit(lambda m: m.update(source_sha256="0")), "source_sha256"),
    "a count": (edit(lambda m: m["splits"]["distinct"]["test"].update(images=9)), "splits"),
    "an audit": (edit(lambda m: m["audit"].clear()), "audit"),
    "a reward hash": (edit(lambda m: m["reward_hash"].clear()), "reward_hash"),
    "an invented claim": (edit(lambda m: m.update(certified=True)), "certified"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "not a dataset folder"),
    "half a manifest": (lambda folder: (folder / MANIFEST).write_text('{"recipe": {'), "damaged"),
    "another card": (lambda folder: (folder / "README.md").write_text("# mine"), "README.md"),
}


@pytest.mark.parametrize("built", ["messages"], indirect=True)
@pytest.mark.parametrize("name", list(FAULTS))
def test_each_fault_is_found_and_named(name: str, built: Path, tmp_path: Path) -> None:
    folder = tmp_path / built.name
    shutil.copytree(built, folder)
    fault, says = FAULTS[name]
    fault(folder)
    with pytest.raises(UserError, match=re.escape(says)):
        verify(folder, every=True)


def test_a_reward_hash_of_the_older_kind_is_not_compared(digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(digits_folder, folder)
    edit(lambda m: m["reward_hash"].update(list="0123456789abcdef"))(folder)
    write_card(folder, read_manifest(folder))
    assert verify(folder).manifest["reward_hash"]["list"] == "0123456789abcdef"
    edit(lambda m: m["reward_hash"].update(list="v2-0123456789abcdef"))(folder)
    write_card(folder, read_manifest(folder))
    with pytest.raises(UserError, match="reward_hash"):
        verify(folder)


def test_the_command_says_what_it_proved(digits_folder: Path, tmp_path: Path) -> None:
    done = invoke("datagen.cli", "verify", digits_folder, "--all")
    assert done.returncode == 0, done.stderr
    for said in (
        "200 of 200 images drawn again",
        "400 of their solutions",
        "8 files",
        "glyph_ids: ",
        "; 0 in two splits",
    ):
        assert said in done.stdout
    shutil.copytree(digits_folder, tmp_path / "copy")
    flip_a_byte(tmp_path / "copy")
    assert "is not what was built" in refused(invoke("datagen.cli", "verify", tmp_path / "copy"))


def test_the_audit_prints_a_table() -> None:
    done = invoke("datagen.cli", "audit", "sum")
    assert done.returncode == 0, done.stderr
    assert "hundreds of points and boxes" in done.stdout
    assert "No attack earned more" in done.stdout
    assert "did you mean 'counting'" in refused(invoke("datagen.cli", "audit", "countin"))

"""Building: same bytes however it is done, splits that are disjoint, and a folder that `datasets` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import datagen
from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.dataset.build import LOCK, RECIPE, build, is_built
from datagen.dataset.config import DatasetConfig, list_shards
from datagen.dataset.executors import process_executor
from datagen.dataset.manifest import MANIFEST, compare_splits, example_files
from datagen.dataset.reader import open_dataset
from datagen.sources.mnist import load_digits
from datagen.sources.split import SPLITS, assign_split
from tests.processes import invoke, kill_when, refused, run


def config(size: int = 2400, seed: int = 7, **options: Any) -> DatasetConfig:
    return DatasetConfig(dataset="digits", size=size, seed=seed, source="mnist-5k", options=options)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards, drawn in one go by one worker."""
    out = tmp_path_factory.mktemp("build") / "digits"
    return build(config(), out, workers=1)


def test_same_config_same_bytes_with_another_number_of_workers(undisturbed: Path, tmp_path: Path) -> None:
    build(config(), tmp_path / "again", workers=2)
    assert hashes(tmp_path / "again") == hashes(undisturbed)
    assert len(hashes(undisturbed)) == 2 + 2 * len(list_shards(config())) + len(example_files(config()))


@pytest.mark.slow
def test_a_killed_build_goes_on_and_gives_the_same_files(undisturbed: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "digits", tmp_path / "digits.partial"
    words = ("build", "digits", "--size", "2400", "--seed", "7", "--workers", "2", "--out", out)
    kill_when(lambda: any(partial.glob("r1/*.parquet")), "datagen.cli", *words)
    assert partial.is_dir()
    assert not out.exists()
    drawn = {path.name: path.stat().st_mtime_ns for path in partial.glob("r1/*.parquet")}
    done = run("datagen.cli", *words)
    assert done.returncode == 0, done.stderr
    assert hashes(out) == hashes(undisturbed)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "r1").iterdir()}
    assert drawn.items() <= kept.items(), "a shard that was complete was drawn again"


def test_a_shard_that_a_power_cut_emptied_is_drawn_again(tmp_path: Path) -> None:
    def stops(function: Any, items: list[Any]) -> Iterator[Any]:
        yield from process_executor(1)(function, items)
        raise KeyboardInterrupt

    build(config(size=20), tmp_path / "whole", workers=1)
    with pytest.raises(KeyboardInterrupt):
        build(config(size=20), tmp_path / "digits", executor=stops)
    emptied = next((tmp_path / "digits.partial" / "raw").glob("test-*"))
    emptied.write_bytes(b"")
    build(config(size=20), tmp_path / "digits", workers=1)
    assert hashes(tmp_path / "digits") == hashes(tmp_path / "whole")


def test_a_build_that_is_there_is_left_alone(undisturbed: Path) -> None:
    before = hashes(undisturbed)
    times = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert is_built(undisturbed, config())
    assert build(config(), undisturbed, workers=1) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == times
    with pytest.raises(UserError, match="holds something else"):
        build(config(seed=8), undisturbed, workers=1)
    assert hashes(undisturbed) == before


def test_a_folder_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    partial = tmp_path / "digits.partial"
    partial.mkdir()
    (partial / RECIPE).write_text("{}")
    with pytest.raises(UserError, match="unfinished build of another recipe"):
        build(config(size=10), tmp_path / "digits", workers=1)


def test_two_builds_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    out, partial = tmp_path / "digits", tmp_path / "digits.partial"
    refusals: list[str] = []

    def meets_another(function: Any, items: list[Any]) -> Iterator[Any]:
        if not refusals:
            done = run("datagen.cli", "build", "digits", "--size", "20", "--seed", "7", "--out", out)
            refusals.append(refused(done))
        yield from map(function, items)

    build(config(size=20), out, executor=meets_another)
    assert f"another process is building in {partial}: wait for it" in refusals[0]
    assert not partial.exists()
    assert not (out / LOCK).exists()
    assert not (out / RECIPE).exists()


def test_the_function_and_the_command_write_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--size", "30", "--seed", "3", "--splits", "60/20/20", "--words", "1..2", "--font", "any"]
    assert invoke("datagen.cli", "build", "messages", *words, "--out", "command").returncode == 0
    same = datagen.DatasetConfig(
        dataset="messages", size=30, seed=3, shares=(60, 20, 20), options={"words": (1, 2), "font": "any"}
    )
    assert datagen.build(same) == tmp_path / "data" / "messages"
    assert hashes(tmp_path / "data" / "messages") == hashes(tmp_path / "command")


CONFIG = {"dataset": "messages", "seed": 2, "size": 50, "shares": [50, 25, 25]}


def test_a_config_is_filled_checked_and_written_as_it_always_was() -> None:
    options = {"words": [1, 3], "alphabet": 26, "vocabulary": 20000, "letters": [3, 10], "font": "sans"}
    options |= {"cell": 28, "noise": 0}
    full = DatasetConfig(**CONFIG)
    assert json.dumps(full.as_json()) == json.dumps(
        {"dataset": "messages", "version": "1", "seed": 2, "size": 50, "shares": [50, 25, 25]}
        | {"source": "wordfreq", "options": options}
    )
    assert DatasetConfig(**CONFIG, source="wordfreq", options={"letters": "3..10", "words": (1, 3)}) == full
    with pytest.raises(ValidationError, match="frozen"):
        full.size = 60  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "message"}, "there is no dataset 'message': did you mean 'messages'"),
        ({"source": "mnist"}, "messages is not drawn from mnist: take --source wordfreq"),
        ({"options": {"digits": (1, 2)}}, "messages has no option 'digits'"),
        ({"options": {"words": (1, 4)}}, "--words: '1..4' is not a number from 1 to 3"),
        ({"options": {"font": 5}}, "--font: '5' is not one of sans, serif, mono, any"),
        ({"shares": (50, 50, 0)}, "at least 1"),
    ],
)
def test_a_wrong_config_gets_one_sentence(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        DatasetConfig(**CONFIG | changes)


@pytest.mark.parametrize("changes", [{"sizes": 5}, {"seed": -1}, {"dataset": 5}, {"size": "many"}])
def test_a_key_or_a_type_that_no_config_has_is_a_validation_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        DatasetConfig(**CONFIG | changes)


def test_splits_share_no_glyph_and_no_image(undisturbed: Path) -> None:
    glyphs: dict[str, set[str]] = {}
    images: dict[str, set[bytes]] = {}
    for split in SPLITS:
        tables = [pq.read_table(path) for path in sorted((undisturbed / "raw").glob(f"{split}-*"))]
        glyphs[split] = {name for table in tables for row in table["glyph_ids"].to_pylist() for name in row}
        images[split] = {image["bytes"] for table in tables for image in table["image"].to_pylist()}
        assert {assign_split(name) for name in glyphs[split]} == {split}
    manifest = json.loads((undisturbed / MANIFEST).read_text())
    assert manifest["splits"]["distinct"] == {
        split: {"images": len(images[split]), "glyph_ids": len(glyphs[split])} for split in SPLITS
    }
    assert len(set().union(*images.values())) == 2400
    assert manifest["splits"]["shared_between_splits"] == {"images": 0, "glyph_ids": 0}
    assert "0 images, 0 glyph_ids" in (undisturbed / "README.md").read_text()


def test_the_proof_finds_a_glyph_that_two_splits_share(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    copied = {
        "train": "train-00000-of-00002",
        "validation": "validation-00000-of-00001",
        "test": "train-00000-of-00002",
    }
    for split, source in copied.items():
        (tmp_path / "raw" / f"{split}-00000-of-00001.parquet").write_bytes(
            (undisturbed / "raw" / f"{source}.parquet").read_bytes()
        )
    found = compare_splits(tmp_path, open_dataset(undisturbed).spec)["shared_between_splits"]
    assert found["images"] == 1000
    assert found["glyph_ids"] > 100


def test_another_seed_shares_no_image(undisturbed: Path, tmp_path: Path) -> None:
    build(config(seed=8), tmp_path / "other", workers=2)

    def images(folder: Path) -> set[bytes]:
        return {row["bytes"] for path in (folder / "raw").iterdir() for row in pq.read_table(path)["image"].to_pylist()}

    assert len(images(undisturbed) | images(tmp_path / "other")) == 4800


def test_datasets_reads_both_tables_and_the_boxes_hold_the_glyphs(undisturbed: Path) -> None:
    import numpy as np
    from datasets import load_dataset

    raw = load_dataset(str(undisturbed), "raw", split="test")
    r1 = load_dataset(str(undisturbed), split="test")  # r1 is the default
    assert (len(raw), len(r1)) == (240, 480)
    assert set(r1["task"]) == {"list", "sum"}
    assert r1[0]["image_id"] == raw[0]["id"]
    pixels = load_digits("mnist-5k")
    for row in raw.select(range(20)):
        assert (row["image"].size, row["image"].mode) == ((84, 84), "RGB")
        assert row["num_digits"] == len(row["digits"]) == len(row["boxes"]) == len(row["glyph_ids"])
        picture = np.asarray(row["image"].convert("L"), dtype=int)
        empty = np.full(picture.shape, True)
        for digit, (x1, y1, x2, y2), glyph in zip(row["digits"], row["boxes"], row["glyph_ids"], strict=True):
            index = pixels.ids.index(glyph)
            assert pixels.labels[index] == digit
            inside = picture[y1:y2, x1:x2]
            assert np.corrcoef(inside.ravel(), pixels.pixels[index].ravel())[0, 1] < -0.99
            assert empty[y1:y2, x1:x2].all(), "two boxes overlap"
            empty[y1:y2, x1:x2] = False
        assert np.ptp(picture[empty]) == 0


def test_datasets_cache_does_not_take_one_folder_for_another_of_the_same_name(tmp_path: Path) -> None:
    from datasets import load_dataset

    for seed in (1, 2):
        build(config(size=20, seed=seed), tmp_path / str(seed) / "digits", workers=1)
    first, second = (load_dataset(str(tmp_path / str(seed) / "digits"), "r1", split="test") for seed in (1, 2))
    assert set(first["id"]).isdisjoint(second["id"])


def test_digits_option_and_counts(tmp_path: Path) -> None:
    build(config(size=30, digits=(2, 2)), tmp_path / "two", workers=1)
    assert set(open_dataset(tmp_path / "two").questions("train")["num_digits"]) == {2}
    assert config(size=2400).counts() == {"train": 1920, "validation": 240, "test": 240}
    with pytest.raises(UserError, match="at least 10"):
        config(size=9)
    with pytest.raises(UserError, match="add up to 100"):
        DatasetConfig(dataset="digits", size=100, seed=0, shares=(80, 10, 11), source="mnist-5k", options={})

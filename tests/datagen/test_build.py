"""Building: same bytes however it is done, splits that are disjoint, and a folder that `datasets` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.dataset import build as building
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig, list_shards, make_config
from datagen.dataset.executors import process_executor
from datagen.dataset.manifest import MANIFEST, example_files, prove
from datagen.dataset.reader import open_dataset
from datagen.registry import DATASETS
from datagen.schema import arrow_schemas
from datagen.sources.mnist import load_digits
from datagen.sources.split import SPLITS, assign_split
from tests.processes import kill_when, run


def recipe(size: int = 2400, seed: int = 7, **options: Any) -> DatasetConfig:
    return make_config("digits", size=size, seed=seed, shares=(80, 10, 10), source="mnist-5k", options=options)


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards, drawn in one go by one worker."""
    out = tmp_path_factory.mktemp("build") / "digits"
    assert build(recipe(), out, process_executor(1))
    return out


def test_same_recipe_same_bytes_with_another_number_of_workers(undisturbed: Path, tmp_path: Path) -> None:
    assert build(recipe(), tmp_path / "again", process_executor(2))
    assert hashes(tmp_path / "again") == hashes(undisturbed)
    assert len(hashes(undisturbed)) == 2 + 2 * len(list_shards(recipe())) + len(example_files(recipe()))


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

    assert build(recipe(size=20), tmp_path / "whole", process_executor(1))
    with pytest.raises(KeyboardInterrupt):
        build(recipe(size=20), tmp_path / "digits", stops)
    emptied = next((tmp_path / "digits.partial" / "raw").glob("test-*"))
    emptied.write_bytes(b"")
    assert build(recipe(size=20), tmp_path / "digits", process_executor(1))
    assert hashes(tmp_path / "digits") == hashes(tmp_path / "whole")


def test_a_build_that_is_there_is_left_alone(undisturbed: Path) -> None:
    before = hashes(undisturbed)
    assert not build(recipe(), undisturbed, process_executor(1))
    with pytest.raises(UserError, match="holds something else"):
        build(recipe(seed=8), undisturbed, process_executor(1))
    assert hashes(undisturbed) == before


def test_a_folder_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    partial = tmp_path / "digits.partial"
    partial.mkdir()
    (partial / building.RECIPE).write_text("{}")
    with pytest.raises(UserError, match="unfinished build of another recipe"):
        build(recipe(size=10), tmp_path / "digits", process_executor(1))


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
    found = prove(tmp_path, open_dataset(undisturbed).spec)["shared_between_splits"]
    assert found["images"] == 1000
    assert found["glyph_ids"] > 100


def test_another_seed_shares_no_image(undisturbed: Path, tmp_path: Path) -> None:
    build(recipe(seed=8), tmp_path / "other", process_executor(2))

    def images(folder: Path) -> set[bytes]:
        return {row["bytes"] for path in (folder / "raw").iterdir() for row in pq.read_table(path)["image"].to_pylist()}

    assert len(images(undisturbed) | images(tmp_path / "other")) == 4800


def test_datasets_reads_both_configs_and_the_boxes_hold_the_glyphs(undisturbed: Path) -> None:
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
        build(recipe(size=20, seed=seed), tmp_path / str(seed) / "digits", process_executor(1))
    first, second = (load_dataset(str(tmp_path / str(seed) / "digits"), "r1", split="test") for seed in (1, 2))
    assert set(first["id"]).isdisjoint(second["id"])


def test_digits_option_and_counts(tmp_path: Path) -> None:
    build(recipe(size=30, digits=(2, 2)), tmp_path / "two", process_executor(1))
    assert set(open_dataset(tmp_path / "two").questions("train")["num_digits"]) == {2}
    assert recipe(size=2400).counts() == {"train": 1920, "validation": 240, "test": 240}
    with pytest.raises(UserError, match="at least 10"):
        recipe(size=9)
    with pytest.raises(UserError, match="add up to 100"):
        make_config("digits", size=100, seed=0, shares=(80, 10, 11), source="mnist-5k", options={})


@pytest.mark.parametrize("name", DATASETS)
def test_the_schema_is_what_datasets_would_have_written(name: str) -> None:
    from datasets import Features

    for schema in arrow_schemas(DATASETS[name]).values():
        features = Features.from_arrow_schema(schema)
        assert features.arrow_schema.equals(schema, check_metadata=True)
        assert features["image"].mode == "RGB"

"""What a dataset's Parquet files say of their columns; older files are read, proven and not mixed with new ones.

`make test-install` reads them with a real `datasets` 3.6.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Features

from datagen.common.files import write_json
from datagen.dataset.build import RECIPE
from datagen.dataset.manifest import MANIFEST, read_manifest, write_card, write_manifest
from datagen.dataset.verify import read_config
from datagen.schema import TABLES
from tests.processes import invoke, refused

GOLDEN = json.loads((Path(__file__).parent / "features.json").read_text())


@pytest.mark.parametrize("table", TABLES)
def test_the_metadata_is_in_the_notation_that_every_version_of_datasets_reads(table: str, built: Path) -> None:
    schema = pq.read_schema(built / table / "test-00000-of-00001.parquet")
    said = json.loads(schema.metadata[b"huggingface"])
    assert said == {"info": {"features": GOLDEN[f"{built.name}/{table}"]}}
    read = Features.from_arrow_schema(schema)
    assert read.arrow_schema.equals(schema)
    assert read["image"].mode == "RGB"


@pytest.fixture
def older(digits_folder: Path, tmp_path: Path) -> Path:
    """The small dataset in format 1: as `datasets` 5 itself writes the metadata."""
    folder = Path(shutil.copytree(digits_folder, tmp_path / "older"))
    config = read_config(folder, read_manifest(folder))
    for path in (*folder.glob("r1/*.parquet"), *folder.glob("raw/*.parquet")):
        rows = pq.read_table(path)
        metadata = Features.from_arrow_schema(rows.schema).arrow_schema.metadata
        assert metadata != rows.schema.metadata
        pq.write_table(rows.replace_schema_metadata(metadata), path, use_dictionary=False)
    write_manifest(folder, config)
    manifest = read_manifest(folder)
    assert manifest["versions"].pop("file format") == "2"
    write_json(folder / MANIFEST, manifest)
    write_card(folder, manifest)
    return folder


def test_an_older_dataset_is_proven_kept_and_read(older: Path, tmp_path: Path) -> None:
    done = invoke("datagen.cli", "verify", older)
    assert done.returncode == 0, done.stderr
    done = invoke("datagen.cli", "build", "digits", "--size", "200", "--seed", "3", "--out", older)
    assert "already there" in done.stdout, done.stderr
    rows = pq.read_table(older / "r1" / "test-00000-of-00001.parquet", columns=["id", "solution"]).to_pylist()
    lines = [json.dumps({"id": row["id"], "completion": row["solution"]}) + "\n" for row in rows]
    (tmp_path / "right.jsonl").write_text("".join(lines))
    done = invoke("evaluation.cli", tmp_path / "right.jsonl", "--data", older, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["accuracy"] == 1.0


def test_what_differs_is_said_of_an_older_dataset_that_is_not_as_it_claims(older: Path) -> None:
    (older / "README.md").write_text("")
    assert "file format 2, not 1" in refused(invoke("datagen.cli", "verify", older))


def test_an_unfinished_build_of_older_files_is_not_gone_on_with(older: Path, tmp_path: Path) -> None:
    manifest = read_manifest(older)
    note = {"recipe": manifest["recipe"], "versions": manifest["versions"]}
    write_json(tmp_path / "new.partial" / RECIPE, note)
    words = ("build", "digits", "--size", "200", "--seed", "3", "--out", tmp_path / "new")
    assert "of another recipe or other versions: delete it" in refused(invoke("datagen.cli", *words))
    write_json(tmp_path / "new.partial" / RECIPE, note | {"versions": {"file format": "2", **note["versions"]}})
    assert invoke("datagen.cli", *words).returncode == 0

"""Folders whose names hold what globs, addresses, shells and YAML know: commands write into them and read them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.datagen.test_export import read, rows_of
from tests.processes import invoke, refused, run

NAMES = {
    "a glob": "a[0-9]*?{b,c}!",
    "parts of an address": "#1 %20&a=b;c+d@e",
    "quotes": 'it\'s "q" $ ~ `x`',
    "a scheme": "s3:b,c",
    "a flag": "-x",
}


def done(module: str, *words: str | Path, cwd: Path) -> str:
    called = invoke(module, *words, cwd=cwd)
    assert called.returncode == 0, called.stderr
    return called.stdout


@pytest.mark.parametrize("name", NAMES)
def test_data_exports_caches_and_results(
    name: str, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(NAMES[name])
    (tmp_path / folder).mkdir()
    monkeypatch.setenv("R1VLM_CACHE", str(tmp_path / folder / "cache"))
    shutil.copytree(random_checkpoint, tmp_path / folder / "model")
    data = ("--data", folder / "data")
    done("datagen.cli", "build", "digits", "--size", "40", "--workers", "1", "--out", folder / "data", cwd=tmp_path)
    done("datagen.cli", "verify", "--", folder / "data", cwd=tmp_path)
    done("datagen.cli", "preview", "--out", folder / "p.png", "--", folder / "data", cwd=tmp_path)
    done("datagen.cli", "export", "--out", folder / "tasks", "lmms-eval", "--", folder / "data", cwd=tmp_path)
    done("datagen.cli", "export", "--out", folder / "package", "verifiers", "--", folder / "data", cwd=tmp_path)
    exported = read(tmp_path / folder / "tasks" / "r1vlm_digits_sum.yaml")
    assert len(rows_of(exported)) == 4
    words = (*data, "--limit", "2", "--max-new-tokens", "2", "--out")
    done("evaluation.cli", *words, folder / "first", "--", folder / "model", cwd=tmp_path)
    assert list((tmp_path / folder / "cache").rglob("*.jsonl"))
    beside = ("--beside", folder / "first" / "results.json", "--report")
    done("evaluation.cli", *words, folder / "second", *beside, "--", folder / "model", cwd=tmp_path)
    assert (tmp_path / folder / "second" / "report.html").is_file()
    out = done("training.cli", "digits", *data, "--out", folder / "run", "--dry-run", cwd=tmp_path)
    assert "r1vlm-train digits" in out


def test_a_variable_of_the_shell_in_a_name_is_refused_where_datasets_would_fill_it_in(
    digits_folder: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(digits_folder, tmp_path / "$HOME"))
    assert "has a name with a variable" in refused(invoke("datagen.cli", "preview", data, cwd=tmp_path))


@pytest.mark.slow
def test_a_run_and_its_checkpoints(digits_folder: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "".join(NAMES.values())
    data = Path(shutil.copytree(digits_folder, folder / "data"))
    model = Path(shutil.copytree(random_checkpoint, folder / "model"))
    (folder / "settings.yaml").write_text(yaml.safe_dump({"max_steps": 1, "logging_steps": 1}))
    words = ["digits", "--data", data, "--model", model, "--out", folder / "run", "--no-report"]
    called = run("training.cli", *words, "--config", folder / "settings.yaml")
    assert called.returncode == 0, called.stderr
    assert json.loads((folder / "run" / "final" / "r1vlm.json").read_text())["stage"] == "grpo"

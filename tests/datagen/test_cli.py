"""`r1vlm-data` as users run it: what it answers, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from datagen.common.options import as_text
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.registry import DATASETS
from tests.processes import invoke, refused

HEAVY = (
    "numpy",
    "PIL",
    "torch",
    "datasets",
    "pyarrow",
    "matplotlib",
    "wordfreq",
    "mlxtend",
    "ray",
    "upath",
    "rapidfuzz",
)
LOADED = """
import sys
from datagen.cli import main
sys.argv = ["r1vlm-data", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    assert done.code == 0
print(*sys.modules)
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["build", "--help"], ["build", "digits", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *words], check=True, capture_output=True, text=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not set(HEAVY) & set(loaded)
    assert ("datagen.registry" in loaded) == ("build" in words)


def test_the_package_is_light_until_a_dataset_is_built() -> None:
    code = "import sys, datagen; assert 'build' in datagen.__all__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {*HEAVY, "pydantic", "datagen.registry"} & set(loaded)


def panels(*words: str) -> dict[str, str]:
    """The panels of a help text by their titles, each as one line of words."""
    done = invoke("datagen.cli", *words, "--help")
    assert done.returncode == 0, done.stderr
    text = done.stdout.split("╭─ ")[1:]
    return {one.partition(" ─")[0]: " ".join(one.partition("\n")[2].replace("│", " ").split()) for one in text}


def test_help_names_every_command_and_dataset() -> None:
    commands = panels()["Commands"]
    assert all(word in commands for word in ("build", "push", "card", "preview", "verify", "export", "audit", "tasks"))
    assert all(f"{spec.name} {spec.summary[:1].upper()}" in panels("build")["Datasets"] for spec in DATASETS.values())


@pytest.mark.parametrize("name", DATASETS)
def test_help_of_a_dataset_shows_its_own_options_and_no_others(name: str) -> None:
    shown = panels("build", name)
    own = shown.pop(f"Options of {name}")
    for option in DATASETS[name].options:
        assert f"--{option.name} " in own
        assert f"[default: {as_text(option.default)}]" in own
    others = {option.name for spec in DATASETS.values() for option in spec.options}
    others -= {option.name for option in DATASETS[name].options}
    assert not [other for other in others for text in (own, *shown.values()) if f"--{other} " in text]
    assert {"Options", "Drawing", "Publishing on the Hugging Face Hub"} == set(shown)


def test_tasks_lists_sizes_tasks_and_rewards() -> None:
    done = invoke("datagen.cli", "tasks")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("digits", "5000", "list", "sum", "format", "correctness"))


def test_preview_is_a_picture(digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    done = invoke("datagen.cli", "preview", digits_folder, "--count", "3", "--out", out)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (1120, 2 * 188)
        assert len(sheet.getcolors(1 << 20) or []) > 50


def test_preview_shows_what_comes_back_in_an_episode(tmp_path: Path) -> None:
    built = build(DatasetConfig(dataset="zoom", size=10, seed=1), tmp_path / "zoom", executor=map)
    turns = open_dataset(built).questions("train")[0]["turns"]
    done = invoke("datagen.cli", "preview", built, "--count", "1", "--out", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 10 + (1 + len(turns)) * 178


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["build", "digit"], "did you mean 'digits'"),
        (["build", "digits", "--size", "0"], "'--size': it should be greater than or equal to 1"),
        (["build", "digits", "--size", "many"], "'--size': it should be a valid integer"),
        (["build", "digits", "--size", "5"], "at least 10"),
        (["build", "digits", "--engine", "ray", "--workers", "2"], "leave it out"),
        (["build", "digits", "--digits", "3..1"], "1..3"),
        (["build", "digits", "--digits", "4"], "1..3"),
        (["build", "digits", "--splits", "90/10"], "--splits 90/10 is not three percentages such as 80/10/10"),
        (["build", "digits", "--source", "emnist"], "emnist"),
        (["build", "words", "--source", "mnist"], "take --source wordfreq"),
        (["build", "digits", "--alphabet", "8"], "digits has no option 'alphabet'"),
        (["build", "messages", "--alphabet", "9"], "'9' is not one of 8, 13, 26"),
        (["build", "messages", "--alphabet", "8", "--letters", "20"], "raise --vocabulary, or widen --letters"),
        (["build", "words", "--font", "comic"], "sans, serif, mono, any"),
        (["build", "words", "--cell", "200"], "200 is above 112"),
        (["build", "digits", "--splits", "0/50/50"], "at least 1"),
        (["verify", "nowhere"], "there is no dataset nowhere"),
        (["verify", "FULL"], "not a dataset folder"),
        (["audit", "digit"], "did you mean 'digits'"),
        (["build", "digits", "--out", "FILE"], "is a file"),
        (["build", "digits", "--out", "FULL"], "holds something else"),
        (["preview", "nowhere"], "there is no dataset nowhere"),
        (["preview", "FULL"], "not a dataset folder"),
        (["preview", "FILE"], "not a dataset folder"),
        (["preview", "DATA", "--split", "dev"], "'dev' is not one of 'train', 'validation', 'test'"),
        (["preview", "DATA", "--out", "FULL"], "no file"),
        (["export", "lmms-eval", "nowhere"], "there is no dataset nowhere"),
        (["export", "lmms-eval", "DATA", "--out", "FILE"], "is a file"),
        (["export", "helm", "DATA"], "lmms-eval"),
        ([], "missing command"),
        (["paint"], "no such command 'paint'"),
        (["build"], "missing command"),
        (["build", "digits", "--paint"], "no such option: --paint"),
        (["build", "words", "--digits", "2"], "words has no option 'digits'"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(words: list[str], says: str, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("something")
    places = {"DATA": digits_folder, "FULL": tmp_path / "full", "FILE": tmp_path / "full" / "file"}
    sentence = refused(invoke("datagen.cli", *(places.get(word, word) for word in words), cwd=tmp_path))
    assert says in sentence
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a folder that nobody may write to")
def test_an_unwritable_folder_gets_one_sentence() -> None:
    sentence = refused(invoke("datagen.cli", "build", "digits", "--size", "10", "--out", "/proc/nowhere"))
    assert "can't write to /proc" in sentence

"""`r1vlm-data` as users run it: what it answers, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import refused, run


def test_help_loads_nothing_heavy() -> None:
    done = run("datagen.cli", "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("build", "preview", "verify", "export", "audit", "tasks"))
    heavy = "{'numpy', 'torch', 'datasets', 'pandas', 'pyarrow', 'matplotlib', 'wordfreq', 'mlxtend', 'ray', 'upath'}"
    parser = "from datagen.cli import make_parser; make_parser(building=False)"
    code = f"import sys; {parser}; print({heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded == "set()\n"


def test_the_help_of_build_says_whose_option_it_is_and_its_default() -> None:
    text = " ".join(run("datagen.cli", "build", "--help").stdout.split())
    assert "letters in a word; words [3..12], messages [3..10]" in text


def test_tasks_lists_sizes_tasks_and_rewards() -> None:
    done = run("datagen.cli", "tasks")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("digits", "5000", "list", "sum", "format", "correctness"))


def test_preview_is_a_picture(digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    done = run("datagen.cli", "preview", digits_folder, "--count", "3", "--out", out)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (1120, 2 * 188)
        assert len(sheet.getcolors(1 << 20) or []) > 50


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["build", "digit"], "did you mean 'digits'"),
        (["build", "digits", "--size", "0"], "--size: 0 is below 1"),
        (["build", "digits", "--size", "many"], "'many' is not an integer"),
        (["build", "digits", "--size", "5"], "at least 10"),
        (["build", "digits", "--engine", "ray", "--workers", "2"], "leave it out"),
        (["build", "digits", "--digits", "3..1"], "1..3"),
        (["build", "digits", "--digits", "4"], "1..3"),
        (["build", "digits", "--splits", "90/10"], "80/10/10"),
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
        (["preview", "DATA", "--split", "dev"], "train, validation, test"),
        (["preview", "DATA", "--out", "FULL"], "no file"),
        (["export", "lmms-eval", "nowhere"], "there is no dataset nowhere"),
        (["export", "lmms-eval", "DATA", "--out", "FILE"], "is a file"),
        (["export", "helm", "DATA"], "lmms-eval"),
        ([], "COMMAND"),
        (["paint"], "paint"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(words: list[str], says: str, digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("something")
    places = {"DATA": digits_folder, "FULL": tmp_path / "full", "FILE": tmp_path / "full" / "file"}
    sentence = refused(run("datagen.cli", *(places.get(word, word) for word in words), cwd=tmp_path))
    assert says in sentence
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a folder that nobody may write to")
def test_an_unwritable_folder_gets_one_sentence() -> None:
    sentence = refused(run("datagen.cli", "build", "digits", "--size", "10", "--out", "/proc/nowhere"))
    assert "can't write to /proc" in sentence

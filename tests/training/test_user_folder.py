"""Started in a folder with packages of our or a library's names: no process of ours imports any of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import TINY

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
NAMES = ("evaluation", "training", "datagen", "torch", "transformers", "random", "tempfile", "encodings")


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A folder whose packages leave a file `imported` when one of them is imported, and raise."""
    folder = tmp_path / "user"
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        code = f"open({str(folder / 'imported')!r}, 'a').write(__name__ + '\\n')\nraise ImportError(__name__)\n"
        (folder / name / "__init__.py").write_text(code)
    return folder


def run_in(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a folder, without the interpreter's flags that the tests may have."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=300
    )


def test_training_and_its_report(user_folder: Path, few_digits: Path, random_checkpoint: Path) -> None:
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", "run", "--steps", "1", *TINY]
    done = run_in(user_folder, BIN / "r1vlm-train", *words)
    assert done.returncode == 0, done.stderr
    assert (user_folder / "run" / "report" / "report.html").exists()
    assert not (user_folder / "imported").exists(), (user_folder / "imported").read_text()


LAUNCH = """
import sys
from pathlib import Path
from training.launch.launcher import supervise
from training.launch.planner import Job, _environment
words = ["accelerate", "launch", "--cpu", "--num_processes", "1", "-m", "training.cli", "--version"]
supervise(Path(sys.argv[1]), Job("trainer", words, _environment(())), None, 0, 120.0)
"""


def test_the_processes_that_the_launcher_starts(user_folder: Path) -> None:
    done = run_in(user_folder, sys.executable, "-P", "-c", LAUNCH, user_folder / "run")
    assert done.returncode == 0, done.stderr
    assert "r1vlm " in done.stderr
    assert not (user_folder / "imported").exists(), (user_folder / "imported").read_text()


def test_a_build_with_several_processes(user_folder: Path) -> None:
    done = run_in(user_folder, BIN / "r1vlm-data", "build", "digits", "--size", "20", "--workers", "2", "--out", "d")
    assert done.returncode == 0, done.stderr
    assert not (user_folder / "imported").exists(), (user_folder / "imported").read_text()

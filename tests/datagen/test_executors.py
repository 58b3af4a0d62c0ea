"""Worker processes: they run what their parent runs, in its environment, and a death is told in one sentence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from datagen.common.errors import UserError
from datagen.dataset.executors import _call, process_executor

ROOT = Path(__file__).parents[2]
WHERE = "__import__('datagen.dataset.shards').__file__"  # asked of a worker with `eval`


def test_workers_draw_with_the_code_of_their_parent_also_where_another_is_installed(tmp_path: Path) -> None:
    """A git worktree with the `.venv` of its main checkout, or a clone beside an installed r1vlm."""
    shutil.copytree(ROOT / "datagen", tmp_path / "datagen", ignore=shutil.ignore_patterns("__pycache__"))
    code = f'from datagen.dataset.executors import process_executor; print(*process_executor(1)(eval, ["{WHERE}"]))'
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}/datagen/__init__.py\n"


def test_workers_have_the_environment_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    execute = process_executor(1)
    assert dict(os.environ) == before
    monkeypatch.setenv("R1VLM_LATER", "credentials")
    names = ["R1VLM_LATER", "PYTHONSAFEPATH", "PYTHONPATH"]
    assert list(execute(os.getenv, names)) == [os.environ.get(name) for name in names]


def test_a_worker_that_dies_gets_one_sentence_however_early() -> None:
    with pytest.raises(UserError, match=r"was killed .*goes on"):
        list(process_executor(1)(os._exit, [9] * 20_000))


def test_a_node_with_other_versions_draws_nothing() -> None:
    with pytest.raises(UserError, match=rf"node {socket.gethostname()} would draw other bytes .*numpy .*, not 0\.1"):
        _call(len, {"numpy": "0.1"}, [], "abc")

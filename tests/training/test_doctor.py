"""The doctor says what is there, names what to do, and never prints a token."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import invoke, refused
from training.launch import doctor
from training.launch.planner import Ports
from training.launch.presets import GPU


def test_the_doctor_has_a_line_for_everything_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", secret)
    done = invoke("training.cli", "--doctor")
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "-- ")) for line in lines)
    for what in ("python", "torch", "trl", "vllm", "GPU", "disk, runs", "Hub token", "server port"):
        assert any(line[3:].startswith(what) for line in lines), what
    assert "there is one" in next(line for line in lines if "Hub token" in line)


def test_a_wrong_version_and_a_missing_package_say_what_to_install() -> None:
    line = doctor._package("torch", "==1.0.*", "train").line()
    assert line.startswith("-- torch")
    assert "pip install 'r1vlm[train]'" in line
    assert "not installed" in doctor._package("no-such-package", ">=1", "train").line()
    assert doctor._package("torch", ">=2", "train").line().startswith("ok ")


def test_versions_that_clash_and_a_library_that_can_not_be_imported_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits_folder: Path
) -> None:
    """What `pip install --upgrade` of another package leaves: huggingface_hub 2 with transformers 5."""
    metadata = tmp_path / "huggingface_hub-2.4.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: huggingface-hub\nVersion: 2.4.0\n")
    (tmp_path / "datasets.py").write_text("raise ImportError('huggingface-hub<2.0 is required')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = Path(sys.executable).parent / "r1vlm-train"

    doctor_says = subprocess.run([script, "--doctor"], capture_output=True, text=True, check=True).stdout
    assert "transformers asks for huggingface-hub" in doctor_says
    assert "and 2.4.0 is installed" in doctor_says
    done = subprocess.run([script, "digits", "--data", digits_folder], check=False, capture_output=True, text=True)
    sentence = refused(done)
    assert "(huggingface-hub<2.0 is required)" in sentence
    assert "--doctor" in sentence


def test_a_torch_that_can_not_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "visible_gpus", lambda: [GPU("GPU", 2**30)])
    monkeypatch.setitem(sys.modules, "torch", None)
    (finding,) = doctor.gpus()
    assert not finding.passed
    assert "pip install 'r1vlm[train]'" in finding.line()


def test_a_torchvision_of_another_build_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits_folder: Path, random_checkpoint: Path
) -> None:
    (tmp_path / "torchvision.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (finding,) = (one for one in doctor.packages() if "different builds" in one.detail)
    assert not finding.passed
    for command in (
        ["training.cli", "digits", "--data", str(digits_folder), "--out", str(tmp_path / "run")],
        ["training.cli", "digits", "--data", str(digits_folder), "--out", str(tmp_path / "run"), "--cold-start"],
        ["evaluation.cli", str(random_checkpoint), "--data", str(digits_folder)],
    ):
        done = invoke(*command)
        assert done.returncode == 2, done.stdout
        remedy = r"pip install --force-reinstall --index-url INDEX torch==[\d.]+ torchvision==[\d.]+"
        assert re.search(f"{remedy}$", done.stderr.strip())
        assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding, *_ = doctor.ports(Ports(server=port))
    assert not finding.passed
    assert str(port) in finding.line()


def test_too_little_room_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "ROOM", dict.fromkeys(doctor.ROOM, 10**9))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "models"))
    found = doctor.disk()
    assert "HF_HOME" in next(finding for finding in found if finding.name == "disk, models").line()

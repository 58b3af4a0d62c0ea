"""`freeze_vision` beside `lora`: whatever its settings name, nothing in the vision tower is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.processes import invoke, refused
from tests.training.conftest import TINY

pytestmark = pytest.mark.slow


def words(model: Path, data: Path, out: Path, lora: str, *more: str) -> list[str | Path]:
    """The arguments of a step of GRPO on an adapter; the recipe of small models has freeze_vision=true."""
    start: list[str | Path] = [
        "digits",
        "--model",
        model,
        "--data",
        data,
        "--out",
        out,
        "--steps",
        "1",
        "--no-report",
        *TINY,
    ]
    return [*start, "--set", f"lora={lora}", *(word for one in more for word in ("--set", one))]


def adapted(out: Path) -> set[str]:
    """The modules that have an adapter in the last checkpoint."""
    with safe_open(out / "final" / "adapter_model.safetensors", "numpy") as file:
        return {name.partition(".lora_")[0] for name in file.keys()}  # noqa: SIM118 - it is no dictionary


@pytest.mark.parametrize(
    ("lora", "more", "seeing", "keys"),
    [
        ("{r: 4, target_modules: all-linear}", [], False, True),
        ("{r: 4, target_modules: all-linear}", ["freeze_vision=true"], False, True),
        ("{r: 4, target_modules: all-linear}", ["freeze_vision=false"], True, True),
        ("{r: 4, target_modules: all-linear, exclude_modules: [k_proj]}", [], False, False),
        ("{r: 4, target_modules: all-linear, exclude_modules: '.*k_proj'}", [], False, False),
        ("{r: 4, target_modules: '.*proj'}", [], False, True),
    ],
)
def test_a_frozen_vision_tower_has_no_adapters(  # noqa: PLR0917 - fixtures
    lora: str, more: list[str], seeing: bool, keys: bool, random_checkpoint: Path, few_digits: Path, tmp_path: Path
) -> None:
    done = invoke("training.cli", *words(random_checkpoint, few_digits, tmp_path / "run", lora, *more))
    assert done.returncode == 0, done.stderr
    names = adapted(tmp_path / "run")
    assert any("language_model" in name for name in names)
    assert any("visual" in name for name in names) == seeing
    assert any("k_proj" in name for name in names) == keys


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ("{r: 4, target_modules: [q_proj], modules_to_save: [merger]}", "of the vision tower: set freeze_vision=false"),
        ("{r: 4, target_modules: '.*visual.*proj'}", "TRL refuses these settings"),
    ],
)
def test_an_adapter_that_trains_a_frozen_vision_tower_is_refused(
    lora: str, says: str, random_checkpoint: Path, few_digits: Path, tmp_path: Path
) -> None:
    assert says in refused(invoke("training.cli", *words(random_checkpoint, few_digits, tmp_path / "run", lora)))
    assert not (tmp_path / "run").exists()

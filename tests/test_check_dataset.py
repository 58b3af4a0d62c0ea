"""Each thing that can be wrong with a dataset of one's own is found, and said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datagen.registry import DATASETS
from datagen.task import DrawnExample, GroundTruth
from datagen.tasks import digits
from datagen.tasks.digits import SUM
from datagen.testing import check_dataset

(OPTION,) = digits.DIGITS.options


def impure(rng: Any, material: Any, options: Any) -> DrawnExample:
    return digits.draw(np.random.default_rng(), material, options)


def same_every_time(rng: Any, material: Any, options: Any) -> DrawnExample:
    return digits.draw(np.random.default_rng(1), material, options)


def leaking(rng: Any, material: Any, options: Any) -> DrawnExample:
    drawn = digits.draw(rng, material, options)
    return replace(drawn, truth={**drawn.truth, "glyph_ids": [str(digit) for digit in drawn.truth["digits"]]})


def forgetful(rng: Any, material: Any, options: Any) -> DrawnExample:
    drawn = digits.draw(rng, material, options)
    return replace(drawn, truth={name: value for name, value in drawn.truth.items() if name != "boxes"})


def floating(rng: Any, material: Any, options: Any) -> DrawnExample:
    drawn = digits.draw(rng, material, options)
    return replace(drawn, truth={**drawn.truth, "num_digits": drawn.truth["num_digits"] + 0.5})


def raises(*_: Any) -> Any:
    raise KeyError("no such thing")


def generous(message: str, example: GroundTruth) -> float:
    return float(str(sum(example["digits"])) in message)


def beyond(message: str, example: GroundTruth) -> float:
    return 2.0


def reward(judge: Any) -> dict[str, Any]:
    return {"tasks": (replace(SUM, rewards={**SUM.rewards, "correctness": judge}),)}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "impure": ({"draw": impure}, "draw gives something else the second time"),
    "always the same": ({"draw": same_every_time}, "of 48 images are like another one"),
    "leaking": ({"draw": leaking}, "of 'glyph_ids': draw from the split's own material"),
    "a column less": ({"draw": forgetful}, "do not have the same columns: boxes"),
    "another type": ({"draw": floating}, "something else after it was written"),
    "a column nowhere": ({"r1_columns": ("digits", "num_digits", "size")}, "'size'"),
    "no difficulty": ({"r1_columns": ("digits",)}, "the difficulty 'num_digits' is not in r1_columns"),
    "disjoint numbers": ({"disjoint": ("glyph_ids", "digits")}, "'digits' is to be disjoint and holds no text"),
    "draw raises": ({"draw": raises}, "test_check_dataset.py, line 44: KeyError: 'no such thing'"),
    "reward raises": (reward(raises), "KeyError: 'no such thing'"),
    "a generous reward": (reward(generous), "all answers at once are right"),
    "attacked": (reward(generous), "earns more of 'correctness' than is due"),
    "out of range": (reward(beyond), "gave 2.0, which is not in [0, 1]"),
    "a wrong solution": (
        {"tasks": (replace(SUM, answer=lambda example: "7"),)},
        "does not earn full marks (correctness)",
    ),
    "one answer": ({"tasks": (replace(SUM, answer=lambda example: "7"),)}, "sum: 1 different answers in 24 images"),
    "no rewards": ({"tasks": (replace(SUM, rewards={}),)}, "it has no reward correctness and no format"),
    "asks nothing": ({"tasks": (replace(SUM, applies_to=lambda example: False),)}, "24 of 24 images are asked nothing"),
    "no tasks": ({"tasks": ()}, "without tasks"),
    "a name with blanks": ({"name": "My Task"}, "it has the name 'My Task': take small letters, digits, - and _"),
    "one name twice": ({"name": "mine-sum"}, "and a task under one name"),
    "unknown material": ({"sources": ("emnist",)}, "from 'emnist': there are mnist-5k"),
    "a name taken": ({"tasks": (replace(SUM, name="count"),)}, "'count' is a name of the dataset 'counting' already"),
    "a default that can't be": ({"options": (replace(OPTION, default=7),)}, "'7' is not a number from 1 to 3"),
}


@pytest.mark.parametrize(("change", "says"), BROKEN.values(), ids=list(BROKEN))
def test_what_is_wrong_with_a_dataset_is_said(
    change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datagen.testing.contract.IMAGES", 8)
    monkeypatch.setattr("datagen.testing.contract.ATTACKED", 2)
    spec = replace(digits.DIGITS, **{"name": "mine", "tasks": (replace(SUM, name="mine-sum"),), **change})
    findings = check_dataset(spec)
    assert any(says in finding for finding in findings), findings
    assert "mine" not in DATASETS

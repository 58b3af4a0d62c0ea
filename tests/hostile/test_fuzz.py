"""Files that nobody would write: each is a value or one sentence, and never another exception.

`make fuzz` tries 100,000 of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen.common.command_line import printed
from datagen.common.config_file import dump_yaml, parse_yaml
from datagen.common.errors import UserError
from datagen.common.untrusted import PRINTABLE
from datagen.dataset.manifest import MANIFEST
from datagen.dataset.reader import open_dataset, tasks_of
from datagen.dataset.verify import read_config
from datagen.hub.cards import license_of, model_card, model_repository
from datagen.hub.record import CARD_KEYS, read_record
from evaluation.completions import read_completions
from evaluation.config import make_config
from evaluation.metrics.external_results import read_external_result
from evaluation.model_source import ModelSource, record_mismatches
from evaluation.report.curves import make_curve
from tests.hostile.damage import BIDI, DEEP, MARKUP, NAMED_AGAIN, TERMINAL
from tests.hostile.test_folders import good_record
from tests.processes import invoke, refused

TEXTS = st.sampled_from(
    ["", TERMINAL, BIDI, MARKUP, "digits", "../..", "/", "\0", "\ud800", "a\nb", "x" * 30_000]
) | st.text(max_size=20)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, -1, 0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
RAW = st.binary(max_size=60) | st.sampled_from([b"", b"[]", b"\xff", DEEP.encode(), b'{"a":1,"a":2}', b"9" * 5_000])


@st.composite
def changed(draw: Any, good: dict[str, Any]) -> Any:
    """A good object with some of its parts replaced, left out, or added to."""
    whole = deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        parent, at = whole, whole
        while isinstance(at, dict) and at:
            parent, key = at, draw(st.sampled_from(sorted(at)))
            at = at[key]
            if draw(st.booleans()):
                break
        match draw(st.sampled_from(["replace", "leave out", "add"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "leave out" if key in parent:
                del parent[key]
            case _:
                parent[draw(TEXTS)] = draw(VALUES)
        if not whole:
            break
    return whole


def tried(read: Callable[[], Any]) -> Any:
    """What is read; None where it is refused, with one sentence."""
    try:
        return read()
    except UserError as error:
        sentence = printed(error)
    assert "\n" not in sentence
    assert len(sentence) < 2_010
    return None


def content(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


CASES = int(os.environ.get("FUZZ", "30"))  # of each of the six tests
fuzzed = settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@fuzzed
@given(data=st.data())
def test_manifests(data: Any, few: Path, tmp_path: Path) -> None:
    good = json.loads((few / "digits" / MANIFEST).read_text())
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    if not (folder / "r1").exists():
        (folder / "r1").symlink_to(few / "digits" / "r1")
    (folder / MANIFEST).write_bytes(content(data.draw(changed(good) | RAW)))
    if built := tried(lambda: open_dataset(folder)):
        assert tried(lambda: tasks_of(built, "all"))
        if tried(lambda: read_config(folder, built.manifest)):
            done = invoke("datagen.cli", "card", folder)
            assert done.returncode == 0 or refused(done)


@fuzzed
@given(data=st.data())
def test_records(data: Any, few: Path, tmp_path: Path) -> None:
    good = good_record(few / "digits")
    (tmp_path / "r1vlm.json").write_bytes(content(data.draw(changed(good) | RAW)))
    record = tried(lambda: read_record(tmp_path))
    if record is not None:
        model = ModelSource(str(tmp_path), tmp_path, record)
        assert model.run is None
        warnings = record_mismatches(model, open_dataset(few / "digits"), ["sum"])
        assert all(map(PRINTABLE.fullmatch, warnings))
        if record.keys() >= CARD_KEYS:
            card = model_card(record, repo="ada/model")
            assert parse_yaml(card.split("---\n")[1])["library_name"] == "transformers"
            assert "<img" not in card
            assert "\x1b" not in card
            assert model_repository(record["tasks"], record.get("base_model", "model"))


@fuzzed
@given(data=st.data())
def test_settings(data: Any, tmp_path: Path) -> None:
    good = {"checkpoint": "a", "data": "b", "samples": 2, "temperature": 0.5, "beside": ["c"], "push": {"repo": "a/b"}}
    texts = st.text(max_size=40) | st.sampled_from(
        [NAMED_AGAIN, "a: 2026-99-99", "? [a]: 1", "{a: 1, a: 2}", "[" * 5_000]
    )
    value = data.draw(changed(good) | texts | RAW)
    if isinstance(value, dict):
        try:
            value = dump_yaml(value)
        except UnicodeEncodeError:
            value = ""
    path = tmp_path / "eval.yaml"
    path.write_bytes(value if isinstance(value, bytes) else value.encode("utf-8", "replace"))
    tried(lambda: make_config({"checkpoint": str(path)}))


@fuzzed
@given(data=st.data())
def test_completions(data: Any, tmp_path: Path) -> None:
    good = {"id": "a", "completion": "b", "sample": 0}
    lines = data.draw(st.lists(changed(good).map(content) | RAW, max_size=4))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\n".join([content(good), *lines]))
    answers = tried(lambda: read_completions(path, ["a"], {"a", "b"}, "the test split"))
    assert answers is None or answers[0].messages[-1] == "b"


@fuzzed
@given(data=st.data())
def test_cards(data: Any, tmp_path: Path) -> None:
    texts = VALUES.map(json.dumps) | st.text(max_size=30) | st.sampled_from([NAMED_AGAIN, TERMINAL, "*a", "&a [*a]"])
    front = "".join(f"{name}: {data.draw(texts)}\n" for name in ("license", "license_name"))
    raw = data.draw(RAW)
    (tmp_path / "README.md").write_bytes(b"---\n" + front.encode("utf-8", "replace") + raw + b"\n---\n# model\n")
    found = license_of(tmp_path)
    assert all(PRINTABLE.fullmatch(term) and len(term) < 5_000 for term in found.values())


@fuzzed
@given(data=st.data())
def test_results_and_metrics(data: Any, tmp_path: Path) -> None:
    good = {
        "name": "a",
        "accuracy": 0.5,
        "accuracy_ci95": [0.4, 0.6],
        "n": 9,
        "shown": "b",
        "split": "test",
        "tasks": ["c"],
    }
    (tmp_path / "results.json").write_bytes(content(data.draw(changed(good) | RAW)))
    if row := tried(lambda: read_external_result(tmp_path / "results.json")):
        assert PRINTABLE.fullmatch(row["name"])
        assert 0 <= row["accuracy"] <= 1
    step = {"step": 1, "reward": 0.5, "rewards/format/mean": 1.0}
    lines = data.draw(st.lists(changed(step).map(content) | RAW, max_size=4))
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([content(step), content({**step, "step": 2}), *lines]))
    assert make_curve(tmp_path / "metrics.jsonl") is not None

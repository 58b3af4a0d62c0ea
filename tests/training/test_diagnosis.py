"""Diagnosis on made-up series of metrics (diagnosis.json), and on those of three real runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.callbacks.diagnosis import DIAGNOSIS, HELD_OUT, RULES, DiagnosisCallback, diagnose, history

HERE = Path(__file__).parent
CASES = json.loads((HERE / "diagnosis.json").read_text(encoding="utf-8"))
GOLDEN = HERE / "golden"  # metrics-*.jsonl: of `make demo`, the keys that a rule reads


def at(curve: Any, share: float) -> float:
    """A curve at a share of its length: a line from one number to another, or several lines end to end."""
    lines = curve if isinstance(curve[0], list) else [curve]
    place = min(int(share * len(lines)), len(lines) - 1)
    start, end = lines[place]
    return float(start + (end - start) * (share * len(lines) - place))


def rows_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, case["steps"] + 1):
        share = (step - 1) / (case["steps"] - 1)
        rows.append({"step": step, **{name: at(curve, share) for name, curve in case["metrics"].items()}})
        if accuracy := case.get("held_out", {}).get(str(step)):
            rows.append({"step": step, HELD_OUT: accuracy})
    return rows


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_series_gets_the_findings_it_should(case: dict[str, Any]) -> None:
    found = {finding.name: finding for finding in history(rows_of(case))}
    assert set(found) == set(case["finds"])
    for name, step in case["finds"].items():
        assert step is None or found[name].step == step
        assert "Try: " in str(found[name])
        assert "\n" not in str(found[name])


def test_every_rule_has_a_series_that_it_finds() -> None:
    assert {name for case in CASES for name in case["finds"]} == set(RULES)


def metrics(task: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (GOLDEN / f"metrics-{task}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 250
    assert rows[-1]["rewards/correctness/mean"] > 0.7
    return rows


@pytest.mark.parametrize("task", ["digits", "words"])
def test_a_real_run_that_went_well_gets_no_false_alarm(task: str) -> None:
    assert history(metrics(task)) == []


def test_a_real_run_that_stood_still_for_a_while_is_told_so_and_not_at_the_end() -> None:
    """It read the first letter again for the fifth one, in steps 40 to 160, and then no more."""
    rows = metrics("messages")
    assert [(finding.name, finding.step) for finding in history(rows)] == [("entropy collapsed", 85)]
    assert diagnose(rows) == []


def test_nothing_is_said_of_nothing() -> None:
    assert diagnose([{"step": 1}]) == []
    assert history([]) == []


def test_a_finding_is_said_once_also_where_a_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(next(case for case in CASES if case["name"] == "completions grow into the limit"))

    def follow(callback: DiagnosisCallback, rows: list[dict[str, Any]]) -> str:
        callback.on_train_begin(None, None, None)
        for row in rows:
            logs = {name: value for name, value in row.items() if name != "step"}
            callback.on_log(None, SimpleNamespace(is_world_process_zero=True, global_step=row["step"]), None, logs)
        callback.on_train_end(None, SimpleNamespace(is_world_process_zero=True, global_step=rows[-1]["step"]), None)
        return capsys.readouterr().out

    whole = follow(DiagnosisCallback(tmp_path), rows)
    assert [line.split(";")[0] for line in whole.splitlines()] == [
        "diagnosis: step 51: 20% of the completions are cut off at the length limit. Try: a higher --set "
        "max_completion_length, or, where they only ramble, a lower --learning-rate and a cold start on short traces.",
        "diagnosis: clipped, to the end",
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:70]))
    assert len(follow(DiagnosisCallback(tmp_path), rows[70:]).splitlines()) == 1
    kept = json.loads((tmp_path / DIAGNOSIS).read_text())
    assert [(finding["name"], finding["step"], finding["at_the_end"]) for finding in kept] == [("clipped", 51, True)]
    healthy = follow(DiagnosisCallback(tmp_path / ".."), rows_of(CASES[0]))
    assert healthy == "diagnosis: nothing wrong was seen in 100 steps\n"

"""What other tools read: results as rows of one table, and answers in the shape of lm-evaluation-harness's logs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.files import write_text
from datagen.r1_format import extract_answer
from datagen.schema import image_columns
from evaluation.config import EvalPlan, Side
from evaluation.metrics.scoring import Scored
from evaluation.metrics.statistics import mean_interval

SURROGATE = re.compile("[\ud800-\udfff]")
NO_ANSWER = "[invalid]"  # what lm-evaluation-harness's filters give where they find none


def write_rows(path: Path, results: Mapping[str, Mapping[str, Any]], scored: Mapping[str, Scored]) -> None:
    """Write a row for each side, task and reward.

    `datasets.load_dataset("json", data_files="runs/*/rows.jsonl")` makes one table of several runs.
    """
    write_lines(path, (row for side, result in results.items() for row in rows_of(side, result, scored[side])))


def rows_of(side: str, result: Mapping[str, Any], scored: Scored) -> list[dict[str, str | int | float]]:
    """The rows of one side: the mean of each reward of each task, `low` and `high` of its 95% interval, and on what.

    Tasks differ in their rewards, so a reward is a row and not a column; the accuracy is the one called `correctness`.
    Nothing is null: Arrow would take a column of nulls for another type than the same column elsewhere.
    """
    common = {
        "side": side,
        "model": result["model"],
        "stage": result["stage"] or "",
        "data": result["data"],
        "dataset_fingerprint": result["dataset_fingerprint"],
        "split": result["split"],
        "engine": result["engine"].get("name", ""),
        "device": result["engine"].get("device", ""),
        "settings": json.dumps(result["settings"], sort_keys=True),
        "r1vlm": result["versions"]["r1vlm"],
    }
    rows = []
    for key, part in scored.groups("task"):
        for name in part.rewards[0]:
            values = np.array([rewards[name] for rewards in part.rewards])
            low, high = mean_interval(values, part.images)
            mean = {"reward": name, "mean": float(values.mean()), "low": low, "high": high, "n": len(values)}
            rows.append({**common, **key, **mean, "reward_hash": result["reward_hash"][key["task"]]})
    return rows


def write_samples(plan: EvalPlan, side: Side, scored: Scored) -> None:
    """Write a file for each task, a line for each question, as lm-evaluation-harness does with `--log_samples`."""
    for key, part in scored.groups("task"):
        write_lines(side.samples(key["task"]), samples_of(plan, side, part))


def samples_of(plan: EvalPlan, side: Side, scored: Scored) -> Iterable[dict[str, Any]]:
    """The lines of one task. A question that was asked several times has several responses, and mean rewards.

    `resps` are full assistant messages, `filtered_resps` what stands in their answer block. `doc` is the row of the
    dataset without its images, which `id` finds. Halves of surrogate pairs, which Arrow refuses, are replaced here; the
    file of completions has them.
    """
    settings = plan.sampling
    generation = {"max_gen_toks": settings.max_new_tokens, "temperature": settings.temperature, "until": []}
    generation["do_sample"] = settings.temperature > 0
    step = settings.samples
    images = image_columns(plan.dataset.spec)
    for doc_id, start in enumerate(range(0, len(scored.questions), step)):
        doc = {name: value for name, value in scored.questions[start].items() if name not in images}
        messages = [SURROGATE.sub("\ufffd", message) for message in scored.messages[start : start + step]]
        rewards = scored.rewards[start : start + step]
        prompt = json.dumps(doc["prompt"], ensure_ascii=False)
        yield {
            "doc_id": doc_id,
            "doc": doc,
            "target": doc["answer"],
            "arguments": {"gen_args_0": {"arg_0": prompt, **({"arg_1": generation} if side.model.is_model else {})}},
            "resps": [messages],
            "filtered_resps": [NO_ANSWER if (answer := extract_answer(text)) is None else answer for text in messages],
            "filter": "none",
            "metrics": list(rewards[0]),
            "doc_hash": hashed(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": hashed(prompt),
            "target_hash": hashed(doc["answer"]),
            **{name: float(np.mean([one[name] for one in rewards])) for name in rewards[0]},
        }


def hashed(text: str) -> str:
    """SHA-256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, in ASCII and in one step."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))

"""GRPO beside its rivals from one cold start, over seeds: `python -m benchmarks.rivals 0 1 2 3 4`.

A seed is that of the data, of the cold start and of all that goes on from it. The ways that sample are given `STEPS`
batches of 128 completions; dynamic sampling, which samples more for a batch, takes fewer steps. Supervised training
takes the processor seconds of the seed's GRPO. What has been run is kept, and not run again; the tables show seeds that
are whole. Set OMP_NUM_THREADS=1 and pin the command to one core: it runs one process at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals_eval import evaluate
from benchmarks.sampling import command
from datagen.common.files import write_json
from evaluation.metrics.statistics import holm

RESULTS = Path(__file__).parent / "results" / "rivals-digits.json"
STEPS = 100  # batches of 128 completions
DYNAMIC = 62  # batches where groups are replaced: about as many completions, by a run of seed 100
DAPO = ["loss_type=dapo", "scale_rewards=group", "dynamic_sampling=true"]
COLD, GRPO = "cold start", "GRPO (the recipe)"
SAMPLING: dict[str, tuple[int, list[str]]] = {  # steps and settings; GRPO first, whose seconds the supervised ways take
    GRPO: (STEPS, []),  # dr_grpo, rewards scaled by the batch, a rate of 2e-4
    "GRPO, twice the rate": (STEPS, ["learning_rate=4e-4"]),
    "Dr. GRPO": (STEPS, ["scale_rewards=none"]),
    "DAPO": (DYNAMIC, DAPO),
    "DAPO, twice the rate": (DYNAMIC, ["learning_rate=4e-4", *DAPO]),
    "CISPO, two steps a batch": (2 * STEPS, ["loss_type=cispo", "epsilon_high=5.0", "num_iterations=2"]),
    "RAFT": (STEPS, ["loss_type=dapo"]),  # with the trainer of benchmarks/rivals_raft.py
    "RAFT, twice the rate": (STEPS, ["learning_rate=4e-4", "loss_type=dapo"]),
}
SUPERVISED = {"supervised, the same 48 traces": 48, "supervised, traces of all questions": 10**6}
SETS = {"smaller": "smaller digits", "noisy": "noise", "longer": "three digits", "blank": "empty image"}
SEVERAL = ("pass@1", "pass@8", "pass@32")
Run = dict[str, Any]
Estimate = tuple[float, float]
"""A mean over seeds, and half of its 95% interval."""


def cpu_seconds(words: Sequence[str]) -> float:
    """Run a command; returns its processor seconds, which other work on the machine changes less than the clock's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def folder_of(seed: int) -> Path:
    """Where a seed's data and checkpoints are."""
    return Path("runs") / f"rivals-{seed}"


def build(seed: int) -> None:
    """The data of one and two digits, and of three, where they are not there."""
    for name, digits, size in (("data", "1..2", 5000), ("longer", "3..3", 2000)):
        words = ["digits", "--digits", digits, "--size", size, "--seed", seed, "--out", folder_of(seed) / name]
        subprocess.run(command("r1vlm-data", "build", *words), check=True)


def train(seed: int, way: str, steps: int, words: Sequence[object]) -> tuple[Path, float]:
    """Train from nothing, for the whole time has to be measured; returns the checkpoint and processor seconds."""
    out = folder_of(seed) / re.sub(r"\W+", "-", way)
    shutil.rmtree(out, ignore_errors=True)
    program = [sys.executable, "-m", "benchmarks.rivals_raft"] if way.startswith("RAFT") else command("r1vlm-train")
    usual = ["digits", "--data", folder_of(seed) / "data", "--seed", seed, "--steps", steps, "--out", out]
    usual += ["--set", "save_steps=100000"]  # the last checkpoint is saved all the same
    return out / "final", cpu_seconds([*program, *map(str, (*usual, *words))])


def run(seed: int, way: str, runs: Sequence[Run]) -> Run:
    """Train and evaluate; `runs` are those before."""
    start = ["--model", folder_of(seed) / COLD.replace(" ", "-") / "final"]
    if way == COLD:
        steps = 80
        _, trial = train(seed, "one step", 1, ["--model", "small", "--cold-start"])
        checkpoint, seconds = train(seed, way, steps, ["--model", "small", "--cold-start"])
        more: Run = {"start": trial}
    elif way in SAMPLING:
        steps, settings = SAMPLING[way]
        words = [word for setting in settings for word in ("--set", setting)]
        checkpoint, seconds = train(seed, way, steps, [*start, "--no-report", *words])
        with (checkpoint.parent / "completions.jsonl").open(encoding="utf-8") as lines:
            more = {"completions": sum(1 for _ in lines)}
    else:
        cold, grpo = (one(runs, seed, name) for name in (COLD, GRPO))
        per_step = (cold["cpu_seconds"] - cold["start"]) / (cold["steps"] - 1)
        steps = round((grpo["cpu_seconds"] - cold["start"]) / per_step)
        checkpoint, seconds = train(seed, way, steps, [*start, "--cold-start", "--traces", SUPERVISED[way]])
        more = {}
    scores = evaluate(checkpoint, folder_of(seed) / "data", folder_of(seed) / "longer")
    return {"seed": seed, "way": way, "steps": steps, "cpu_seconds": seconds, **more, "scores": scores}


def one(runs: Sequence[Run], seed: int, way: str) -> Run:
    """The run of a seed and a way."""
    return next(each for each in runs if (each["seed"], each["way"]) == (seed, way))


def estimate(values: Sequence[float]) -> Estimate:
    """Student's t over two or more seeds. Each has questions of its own, so that their chance is in the spread too."""
    from scipy.stats import t

    n = len(values)
    return statistics.fmean(values), float(t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n))


def p_value(differences: Sequence[float]) -> float:
    """Two-sided, of the same test; 1 where nothing differs."""
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0).pvalue) if len(set(differences)) > 1 else 1.0


def summarize(runs: Sequence[Run]) -> list[Run]:
    """For each way, the estimates over the seeds that have all ways: of the scores, and of what they differ by.

    `gain` is the difference from the seed's cold start, `beside_grpo` from its GRPO, `p_value` that of the accuracy on
    `test` beside GRPO with Holm's correction for all ways. Empty where there are fewer than two such seeds.
    """
    ways = [COLD, *SAMPLING, *SUPERVISED]
    seeds = [seed for seed in sorted({each["seed"] for each in runs}) if len(of_seed(runs, seed)) == len(ways)]
    if len(seeds) < 2:
        return []

    def scores(way: str, name: str) -> list[float]:
        return [one(runs, seed, way)["scores"][name] for seed in seeds]

    def beside(way: str, other: str, name: str) -> list[float]:
        return [own - its for own, its in zip(scores(way, name), scores(other, name), strict=True)]

    names = list(one(runs, seeds[0], COLD)["scores"])
    compared = [way for way in ways if way not in (COLD, GRPO)]
    p_values = holm([p_value(beside(way, GRPO, "test")) for way in compared])
    corrected = dict(zip(compared, p_values, strict=True))
    return [
        {
            "way": way,
            "seeds": seeds,
            **{
                key: statistics.fmean(one(runs, seed, way).get(key, 0) for seed in seeds)
                for key in ("steps", "completions", "cpu_seconds")
            },
            "scores": {name: estimate(scores(way, name)) for name in names},
            "gain": {name: estimate(beside(way, COLD, name)) for name in names},
            "beside_grpo": {name: estimate(beside(way, GRPO, name)) for name in names},
            "p_value": corrected.get(way),
        }
        for way in ways
    ]


def of_seed(runs: Sequence[Run], seed: int) -> list[Run]:
    """The runs of a seed."""
    return [each for each in runs if each["seed"] == seed]


def percent(value: Estimate) -> str:
    """An estimate in percent, or in points."""
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f}"


def points(value: Estimate) -> str:
    """A difference in points."""
    return f"{100 * value[0]:+.1f} ± {100 * value[1]:.1f}"


def tables(summary: Sequence[Run]) -> list[str]:
    """The Markdown tables: accuracy and cost, other questions, several answers to a question."""
    cost, other, several = [], [], []
    for row in summary:
        way, scores, gain = row["way"], row["scores"], row["gain"]
        first = way in (COLD, GRPO)
        cost.append(
            (
                way,
                f"{row['steps']:.0f}",
                f"{row['completions']:,.0f}",
                f"{row['cpu_seconds']:.0f}",
                percent(scores["test"]),
                "" if first else points(row["beside_grpo"]["test"]),
                "" if first else f"{row['p_value']:.3f}",
            )
        )
        other.append((way, *(percent(scores[name]) for name in SETS)))
        gains = ["" if way == COLD else points(gain[name]) for name in SEVERAL]
        several.append((way, *(percent(scores[name]) for name in SEVERAL), *gains))
    head = ("way", "steps", "completions", "CPU seconds", "held-out", "beside GRPO", "p (Holm)")
    return [
        table(head, cost),
        table(("way", *SETS.values()), other),
        table(("way", *SEVERAL, *(f"gain in {name}" for name in SEVERAL)), several),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are set to the right."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1), *lines])


def main() -> None:
    """Run what is missing, keep its numbers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, nargs="*")
    runs: list[Run] = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else []
    for seed in parser.parse_args().seeds:
        build(seed)
        for way in (COLD, *SAMPLING, *SUPERVISED):
            if all(each["way"] != way for each in of_seed(runs, seed)):
                runs.append(run(seed, way, runs))
                write_json(RESULTS, {"runs": runs, "summary": summarize(runs)})
    print("\n\n".join(tables(summarize(runs))))


if __name__ == "__main__":
    main()

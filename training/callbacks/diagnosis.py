"""What goes wrong in a GRPO run, from the rows of `metrics.jsonl`: each symptom with what to try.

Every rule looks at means over the last `WINDOW` steps, and says nothing before there are as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from datagen.common.files import METRICS, write_json
from datagen.common.metrics_log import read_metrics

WINDOW = 20  # steps
FORMAT, CORRECT, SPREAD = "rewards/format/mean", "rewards/correctness/mean", "rewards/correctness/std"
CLIPPED, ENTROPY, KL, REWARD = "completions/clipped_ratio", "entropy", "kl", "reward"
ZERO_VARIANCE = "frac_groups_zero_variance"  # of a step's groups
HELD_OUT = "held_out/correctness"  # what `training.callbacks.validation` logs, in rows of its own
SOLVED = 0.9  # accuracy from which on little variance is no fault
DIAGNOSIS = "diagnosis.json"
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Symptom:
    """Something that is wrong at a step: its name, what is seen, and what to try."""

    name: str
    step: int
    seen: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"step {self.step}: {self.seen}. Try: {self.remedy}."


def values(rows: Rows, key: str) -> list[float]:
    """What was logged under a key, in order."""
    return [row[key] for row in rows if row.get(key) is not None]


def recent(rows: Rows, key: str, *, ago: int = 0) -> float | None:
    """The mean of the last `WINDOW` values, or of those `ago` values before; None where there are fewer."""
    series = values(rows[-8 * WINDOW :], key)  # rows without the key, of held-out scores, are between them
    end = len(series) - ago
    return fmean(series[end - WINDOW : end]) if end >= WINDOW else None


def format_alone(rows: Rows) -> tuple[str, str] | None:
    """The format is learned, and correctness gives nothing to learn from: all completions of a group earn the same."""
    form, correct, spread = recent(rows, FORMAT), recent(rows, CORRECT), recent(rows, SPREAD)
    if form is None or correct is None or spread is None or form < 0.95 or correct >= SOLVED:
        return None
    same = recent(rows, ZERO_VARIANCE) or 0.0
    if spread > 0.05 and same < 0.9:
        return None
    return (
        f"{form:.0%} of the completions are well-formed and {correct:.0%} correct, and correctness hardly varies "
        f"(deviation {spread:.2f})",
        "easier questions first (--curriculum difficulty), more completions a question (--num-generations 16), or a "
        "cold start on traces (--cold-start)",
    )


def clipped(rows: Rows) -> tuple[str, str] | None:
    """Completions end at the length limit, not where the model would end them."""
    ratio = recent(rows, CLIPPED)
    if ratio is None or ratio < 0.2:
        return None
    return (
        f"{ratio:.0%} of the completions are cut off at the length limit",
        "a higher --set max_completion_length, or, where they only ramble, a lower --learning-rate and a cold start on "
        "short traces",
    )


def collapsed(rows: Rows) -> tuple[str, str] | None:
    """The model is certain of what it says before it is right, and no longer becomes better.

    A run may find its way out of that after a hundred steps, so the remedy begins with what goes on from where it is.
    """
    entropy, correct, was = recent(rows, ENTROPY), recent(rows, CORRECT), recent(rows, CORRECT, ago=2 * WINDOW)
    if entropy is None or correct is None or was is None:
        return None
    if entropy > 0.05 or correct >= SOLVED or correct > was + 0.01:
        return None
    return (
        f"entropy has collapsed to {entropy:.3f} nats a token at {correct:.0%} correct, {was:.0%} "
        f"{2 * WINDOW} steps ago",
        "--set temperature=1.2, --set epsilon_high=0.28 or --set entropy_coef=0.001; where it lasts, a lower "
        "--learning-rate from a checkpoint before it",
    )


def running_away(rows: Rows) -> tuple[str, str] | None:
    """The model leaves the reference behind."""
    now, was = recent(rows, KL), recent(rows, KL, ago=WINDOW)
    if now is None or was is None or now < 0.5 or now < 2 * was:
        return None
    return (
        f"the KL divergence from the reference runs away: {was:.2g}, and {WINDOW} steps later {now:.2g}",
        "a lower --learning-rate, --set max_grad_norm=0.2, or a higher --set beta; go back to a checkpoint from before",
    )


def overfitted(rows: Rows) -> tuple[str, str] | None:
    """The reward of sampled completions rises while held-out accuracy falls."""
    scored = [i for i, row in enumerate(rows) if row.get(HELD_OUT) is not None]
    accuracy = values(rows, HELD_OUT)
    if len(accuracy) < 3:
        return None
    best = max(range(len(accuracy)), key=accuracy.__getitem__)
    if len(accuracy) - best < 3 or max(accuracy[-2:]) > accuracy[best] - 0.05:  # one low score may be chance
        return None
    rewards = [recent(rows[: scored[i] + 1], REWARD) for i in (best, -1)]
    if rewards[0] is None or rewards[1] is None or rewards[1] <= rewards[0]:
        return None
    return (
        f"held-out accuracy has fallen from {accuracy[best]:.0%} at step {rows[scored[best]]['step']} to "
        f"{accuracy[-1]:.0%}, while the reward rose from {rewards[0]:.2f} to {rewards[1]:.2f}",
        "the checkpoint `best`, a lower --learning-rate, or more data; look in completions.jsonl for a reward that is "
        "earned without the answer",
    )


RULES: dict[str, Callable[[Rows], tuple[str, str] | None]] = {
    "format alone": format_alone,
    "clipped": clipped,
    "entropy collapsed": collapsed,
    "KL running away": running_away,
    "overfitted": overfitted,
}


def diagnose(rows: Rows) -> list[Symptom]:
    """What is wrong at the last of these rows of `metrics.jsonl`."""
    results = {name: rule(rows) for name, rule in RULES.items()}
    return [Symptom(name, rows[-1]["step"], *words) for name, words in results.items() if words is not None]


def history(rows: Rows) -> list[Symptom]:
    """Everything that was wrong in a run, each symptom where it was first seen."""
    first: dict[str, Symptom] = {}
    for end in range(1, len(rows) + 1):
        for symptom in diagnose(rows[:end]):
            first.setdefault(symptom.name, symptom)
    return list(first.values())


class DiagnosisCallback(TrainerCallback):  # type: ignore[misc]
    """Prints each symptom when it is first seen, and all at the end; keeps them in the run folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = []
        self.reported: dict[str, Symptom] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from what the run has logged before."""
        self.rows = read_metrics(self.out / METRICS)
        self.reported = {symptom.name: symptom for symptom in history(self.rows)}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the run again, with the numbers of this step."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        self.rows.append({"step": state.global_step, **logs})
        for symptom in diagnose(self.rows):
            if symptom.name not in self.reported:
                self.reported[symptom.name] = symptom
                tqdm.write(f"diagnosis: {symptom}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sum up."""
        if not state.is_world_process_zero:
            return
        still = {symptom.name for symptom in diagnose(self.rows)} if self.rows else set()
        for symptom in self.reported.values():
            tqdm.write(
                f"diagnosis: {symptom.name}, {'to the end' if symptom.name in still else 'for a while'}; {symptom}"
            )
        if not self.reported and len(self.rows) >= WINDOW:
            tqdm.write(f"diagnosis: nothing wrong was seen in {state.global_step} steps")
        symptoms = [{**asdict(symptom), "at_the_end": symptom.name in still} for symptom in self.reported.values()]
        write_json(self.out / DIAGNOSIS, symptoms)

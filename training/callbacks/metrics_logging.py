"""What a run shows and keeps while it goes: one progress bar, `metrics.jsonl`, and the reward curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from datagen.common.files import CURVE, METRICS, atomic_path, naming, write_text
from datagen.common.metrics_log import read_metrics
from datagen.common.untrusted import parse_json

COMPLETIONS = "completions.jsonl"
ON_THE_BAR = {"reward": "reward", "rewards/correctness/mean": "correct", "loss": "loss", "entropy": "entropy"}


class MetricsLogger(TrainerCallback):  # type: ignore[misc]
    """A progress bar on the terminal, and every logged step as a line of `metrics.jsonl`."""

    def __init__(self, out: Path, title: str) -> None:
        self.out = out
        self.title = title
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar where the run stands."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step more; a launcher that watches for one sees it by the time of the file."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            (self.out / METRICS).touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the numbers of this step."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        path = self.out / METRICS
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        if self.bar is not None:
            self.bar.set_postfix({short: f"{logs[name]:.3f}" for name, short in ON_THE_BAR.items() if name in logs})

    def close(self) -> None:
        """Close the bar, however the training has ended: what is said next stands on a line of its own."""
        if self.bar is not None:
            self.bar.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the curve."""
        if state.is_world_process_zero:
            draw_curve(self.out)


def truncate_logs(out: Path, step: int) -> None:
    """Drop what a killed run logged behind its last checkpoint, and broken lines: those steps are run again.

    A process that is killed while it writes leaves half a line, to which another may have added its own.
    """
    for name in (METRICS, COMPLETIONS):
        path = out / name
        if path.exists():
            *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
            write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step that a line is of; infinity for a broken one."""
    try:
        return float(parse_json(line, ours=False)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def draw_curve(out: Path) -> None:
    """The mean rewards of every step as a picture, smoothed over ten steps, with what was measured behind it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_metrics(out / METRICS)
    names = [name for name in ("reward", "rewards/format/mean", "rewards/correctness/mean") if rows and name in rows[0]]
    if not names:
        return
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in names:
        steps = [row["step"] for row in rows if name in row]
        values = [row[name] for row in rows if name in row]
        smooth = [sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1]) for i in range(len(values))]
        (line,) = axes.plot(steps, smooth, label=name.removeprefix("rewards/").removesuffix("/mean"))
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=1)
    axes.set(xlabel="step", ylabel="mean over sampled completions", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(out / CURVE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)

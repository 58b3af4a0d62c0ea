"""Scoring a checkpoint or its completions with the tasks' own rewards: intervals, a comparison, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.config import EvalConfig
    from evaluation.evaluator import evaluate
    from evaluation.report.results import EvalResult

__all__ = ["EvalConfig", "EvalResult", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562), so that `import evaluation` loads nothing."""
    from importlib import import_module

    rooms = {"EvalConfig": "config", "EvalResult": "report.results", "evaluate": "evaluator"}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{rooms[name]}"), name)

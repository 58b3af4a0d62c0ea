"""Which heads look up, and how well: `python -m benchmarks.look_ups [CHECKPOINT DATASET]`.

The heads are chosen as `r1vlm-eval play` chooses them, on 64 examples of the validation split, and measured on 64
others: those of the built-in models, where no checkpoint is named. Theirs are kept in `results/look-ups.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datagen.common.files import write_json
from datagen.dataset.config import DatasetConfig
from evaluation.attention.heads import choose_heads
from evaluation.backends import transformers
from evaluation.backends.base import Sampling
from training.models import model_folder

EXAMPLES = 128
RESULTS = Path(__file__).parent / "results" / "look-ups.json"
BUILT_IN = (
    ("small", "digits"),
    ("small-ciphers", "words"),
    ("small-ciphers", "messages"),
    ("small-messages", "messages"),
)


def measure(model: str, dataset: str) -> dict[str, Any]:
    """What was measured of the heads of a model that look up, with their layers and numbers from 1 on."""
    backend = transformers.load(model_folder(model), Sampling(1), 1)
    one = choose_heads(backend, DatasetConfig(dataset=dataset, seed=0), EXAMPLES)
    heads = [f"{layer + 1}.{head + 1}" for layer, head in one.heads]
    shares = {"share": one.share, "chance": one.chance, "found": one.found}
    return {"model": model, "dataset": dataset, "heads": heads, "n": one.n, **shares}


def row(one: dict[str, Any]) -> str:
    """A result as a row of the Markdown table."""
    return (
        f"| {one['model']} | {one['dataset']} | {', '.join(one['heads'])} | {one['share']:.1%} "
        f"| {one['chance']:.1%} | {one['found']:.1%} | {one['n']} |"
    )


def main() -> None:
    """Print the table."""
    named = [(sys.argv[1], sys.argv[2])] if len(sys.argv) > 2 else BUILT_IN
    results = [measure(*one) for one in named]
    if named is BUILT_IN:
        write_json(RESULTS, results)
    print("| model | dataset | layer.head | share on the right cell | chance | right cell first | look-ups |")
    print("|---|---|---|---:|---:|---:|---:|")
    print(*map(row, results), sep="\n")


if __name__ == "__main__":
    main()

"""Which heads look up, and how well: `python -m benchmarks.look_ups [CHECKPOINT DATASET]`.

The heads are chosen as `r1vlm-eval play` chooses them, on 64 examples of the validation split, and measured on 64
others: those of the built-in models, where no checkpoint is named.
"""

from __future__ import annotations

import sys

from datagen.dataset.config import DatasetConfig
from evaluation.attention.heads import choose_heads
from evaluation.backends import transformers
from evaluation.backends.base import Sampling
from training.models import model_folder

EXAMPLES = 128
BUILT_IN = (("small", "digits"), ("small-ciphers", "words"), ("small-ciphers", "messages"))


def main() -> None:
    """Print the table."""
    named = [(sys.argv[1], sys.argv[2])] if len(sys.argv) > 2 else BUILT_IN
    print("| model | dataset | layer.head | share on the right cell | chance | right cell first | look-ups |")
    print("|---|---|---|---:|---:|---:|---:|")
    for name, dataset in named:
        backend = transformers.load(model_folder(name), Sampling(1), 1)
        one = choose_heads(backend, DatasetConfig(dataset=dataset, seed=0), EXAMPLES)
        heads = ", ".join(f"{layer + 1}.{head + 1}" for layer, head in one.heads)
        print(
            f"| {name} | {dataset} | {heads} | {one.share:.1%} | {one.chance:.1%} | {one.found:.1%} | {one.n} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

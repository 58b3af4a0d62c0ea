"""The questions of a dataset as EasyR1 reads them, judged by our rewards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import (
    marked_text,
    tasks_asked,
    truth_text,
    write_questions,
    write_readme,
    write_utils,
)

# Fields: EasyR1's verl/utils/dataset.py.
COLUMNS = [("problem", pa.string()), ("ground_truth", pa.string())]
README = """\
# {dataset} with EasyR1

```sh
python -m verl.trainer.main config=examples/config.yaml \\
    data.train_files={out}/train.parquet data.val_files={out}/validation.parquet \\
    data.prompt_key=problem data.answer_key=ground_truth data.format_prompt=null \\
    data.min_pixels=null data.max_pixels=null data.max_response_length=512 \\
    data.rollout_batch_size=128 data.filter_overlong_prompts=false worker.actor.model.model_path=MODEL \\
    worker.reward.reward_function={out}/{utils}.py:compute_score \\
    worker.rollout.tensor_parallel_size=1 trainer.n_gpus_per_node=1
```

Start this in a checkout of EasyR1, with `pip install --no-deps r1vlm` beside it, on every node. EasyR1 asks a question
without a system message, so that the model's chat template puts its own there.

{note}"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the questions and their reward into the folder `out`; returns how they are used.

    Raises:
        UserError: where the tasks have several turns, or are judged by images.
    """
    tasks = tasks_asked(built, "train", "EasyR1")
    write_questions(built, out, "EasyR1", COLUMNS, _cells)
    write_readme(README, built, out)
    write_utils("easyr1", built, out)
    return [f"{out}: questions for EasyR1 of {', '.join(task.name for task in tasks)}; see its README.md"]


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"problem": marked_text(row), "ground_truth": truth_text(row)}

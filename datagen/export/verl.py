"""The questions of a dataset as verl reads them, judged by our rewards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from datagen.common.errors import UserError
from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import (
    MESSAGES,
    marked_messages,
    tasks_asked,
    truth_text,
    write_questions,
    write_readme,
    write_utils,
)

# Fields: verl's docs/preparation/prepare_data.rst. Its trainer shows the metrics of each `data_source`.
COLUMNS = [
    ("data_source", pa.string()),
    ("prompt", MESSAGES),
    ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
    ("extra_info", pa.struct([("index", pa.string())])),
]
README = """\
# {dataset} with verl

```sh
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo algorithm.use_kl_in_reward=false \\
    data.train_files={out}/train.parquet data.val_files={out}/validation.parquet \\
    data.train_batch_size=64 data.max_prompt_length=1024 data.max_response_length=512 \\
    reward.custom_reward_function.path={out}/{utils}.py reward.custom_reward_function.name=compute_score \\
    actor_rollout_ref.model.path=MODEL actor_rollout_ref.actor.ppo_mini_batch_size=64 \\
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 actor_rollout_ref.actor.optim.lr=1e-6 \\
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8 \\
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \\
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4 \\
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4 \\
    trainer.n_gpus_per_node=1 trainer.nnodes=1 trainer.logger=[console]
```

This needs `pip install verl vllm qwen-vl-utils` and `pip install --no-deps r1vlm` beside them, on every node.

{note}"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the questions and their reward into the folder `out`; returns how they are used.

    Raises:
        UserError: where the tasks have several turns, are judged by images, or have different rewards.
    """
    tasks = tasks_asked(built, "train", "verl")
    if len({tuple(sorted(task.rewards)) for task in tasks}) > 1:
        raise UserError(
            f"the tasks of {built.spec.name} have different rewards, and verl logs those of the first answer alone: "
            "export it for another trainer"
        )
    write_questions(built, out, "verl", COLUMNS, _cells)
    write_readme(README, built, out)
    write_utils("verl", built, out)
    return [f"{out}: questions for verl of {', '.join(task.name for task in tasks)}; see its README.md"]


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data_source": f"r1vlm_{row['task']}",
        "prompt": marked_messages(row),
        "reward_model": {"style": "rule", "ground_truth": truth_text(row)},
        "extra_info": {"index": row["id"]},
    }

"""The questions of a dataset as ms-swift reads them, judged by our rewards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from datagen.common.files import write_text
from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import (
    MESSAGES,
    UTILS,
    marked_messages,
    tasks_asked,
    truth_text,
    write_questions,
    write_readme,
    write_utils,
)
from datagen.r1_format import OPENING
from datagen.registry import reward_names

# Its standard fields, which it does not map (swift/dataset/preprocessor/core.py); others go to the rewards.
COLUMNS = [("messages", MESSAGES), ("r1vlm", pa.string())]
PLUGIN = """\
\"\"\"Names the rewards of {dataset} for ms-swift: `--external_plugins plugin.py`.\"\"\"

from {utils} import reward_function
from swift.rewards import orms

for name in {rewards!r}:
    orms[f"r1vlm_{{name}}"] = lambda args=None, name=name: reward_function(name)
"""
README = """\
# {dataset} with ms-swift

```sh
swift rlhf --rlhf_type grpo --model MODEL \\
    --dataset {out}/train.parquet --val_dataset {out}/validation.parquet --load_from_cache_file false \\
    --external_plugins {out}/plugin.py --reward_funcs {names} \\
    --response_prefix '{prefix}' \\
    --num_generations 8 --max_completion_length 512 --learning_rate 1e-6 --output_dir FOLDER
```

This needs `pip install ms-swift msgspec qwen-vl-utils torchvision` and `pip install --no-deps r1vlm` beside it:
ms-swift 4.6 wants an older `datasets` than r1vlm, and the rewards need none. ms-swift writes prompts by its own
templates, and not by the model's. The opening words are the response prefix, also for a checkpoint of r1vlm;
ms-swift makes a line break of `\\n`. Where several templates fit a checkpoint, name one, such as
`--model_type qwen2_5_vl --template qwen2_5_vl`.
"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the questions and their rewards into the folder `out`; returns how they are used.

    Raises:
        UserError: where the tasks have several turns, or are judged by images.
    """
    tasks = [task.name for task in tasks_asked(built, "train", "ms-swift")]
    rewards = reward_names(tasks)
    write_questions(built, out, "ms-swift", COLUMNS, _cells)
    write_text(out / "plugin.py", PLUGIN.format(dataset=built.spec.name, utils=UTILS, rewards=rewards))
    names = " ".join(f"r1vlm_{name}" for name in rewards)
    prefix = OPENING.replace("\n", "\\n")
    write_readme(README, built, out, names=names, prefix=prefix)
    write_utils("ms_swift", built, out)
    return [f"{out}: questions for ms-swift of {', '.join(tasks)}; see its README.md"]


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": marked_messages(row), "r1vlm": truth_text(row)}

"""A script of TRL's own trainer on a dataset: the plain reference, which runs without the trainers of r1vlm."""

from __future__ import annotations

from pathlib import Path

from datagen.common.files import write_text
from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import UTILS, tasks_asked, write_readme, write_utils
from datagen.registry import reward_names

SCRIPT = '''\
"""GRPO on {dataset}, with TRL's own trainer and the rewards of r1vlm. Every setting of GRPOConfig is a flag.

    python train.py --model MODEL --output_dir FOLDER
"""

from dataclasses import dataclass, field

from datagen.dataset.reader import open_dataset
from datagen.r1_format import with_opening
from {utils} import reward_function
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer, TrlParser

DATA = {data!r}
TASKS = {tasks!r}
REWARDS = {rewards!r}


@dataclass
class Script:
    model: str = field(metadata={{"help": "A checkpoint folder, or a model on the Hub."}})


if __name__ == "__main__":
    parser = TrlParser((Script, GRPOConfig))
    parser.set_defaults(max_completion_length=512)
    script, config = parser.parse_args_and_config()
    # The opening words end the prompt: the rewards expect what comes behind them.
    processor = AutoProcessor.from_pretrained(script.model)
    processor.chat_template = with_opening(processor.chat_template)
    trainer = GRPOTrainer(
        model=script.model,
        processing_class=processor,
        args=config,
        train_dataset=open_dataset(DATA).questions("train", TASKS),
        reward_funcs=[reward_function(name) for name in REWARDS],
    )
    trainer.train()
    trainer.save_model()
'''
README = """\
# {dataset} with TRL

```sh
python train.py --model MODEL --output_dir FOLDER
```

This needs `pip install 'r1vlm[train]'`. `train.py` reads the dataset from {data}, and gives the model the opening
words. MODEL can be any vision-language model that TRL trains. Every setting of TRL's `GRPOConfig` is a flag.
"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the script and its rewards into the folder `out`; returns how they are used.

    Raises:
        UserError: where the tasks have several turns.
    """
    tasks = [task.name for task in tasks_asked(built, "train", "this script")]
    words = {"dataset": built.spec.name, "data": built.name, "tasks": tasks, "rewards": reward_names(tasks)}
    write_text(out / "train.py", SCRIPT.format(**words, utils=UTILS))
    write_readme(README, built, out)
    write_utils("trl", built, out)
    return [f"{out}: TRL's own trainer on {built.name}", f"  python {out}/train.py --model MODEL --output_dir FOLDER"]

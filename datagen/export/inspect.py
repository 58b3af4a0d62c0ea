"""The questions of a dataset as tasks of inspect_ai, judged by our rewards."""

from __future__ import annotations

from pathlib import Path

from datagen.common.files import write_text
from datagen.dataset.reader import BuiltDataset
from datagen.export.questions import UTILS, check_truth, tasks_asked, write_readme, write_utils

TASKS = """\
\"\"\"The tasks of {dataset} for inspect_ai: `inspect eval {name}.py --model PROVIDER/MODEL`.\"\"\"

from inspect_ai import Task, task
from {utils} import ask

DATA = {data!r}
"""
TASK = """

@task(name={name!r})
def {function}() -> Task:
    return ask(DATA, {task!r})
"""
README = """\
# {dataset} with inspect_ai

```sh
inspect eval {name}.py --model openai-api/SERVER/MODEL --model-base-url http://localhost:8000/v1
```

Run this in this folder: inspect_ai takes no absolute path. It asks a server that speaks OpenAI's protocol, such as
`vllm serve MODEL`; `SERVER_API_KEY` must be set, to anything where the server wants no key. It needs
`pip install 'r1vlm[inspect]'`. The test questions come from {data}.

MODEL is to be a checkpoint of r1vlm: its chat template ends the prompt with the opening words, behind which the rewards
expect what was generated. Start the server without a reasoning parser.
"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write a file of tasks and their scorer into the folder `out`; returns how they are used.

    Raises:
        UserError: where the tasks have several turns, or are judged by images.
    """
    spec = built.spec
    tasks = tasks_asked(built, "test", "inspect_ai")
    check_truth(spec, "inspect_ai")
    name = "r1vlm_" + spec.name.replace("-", "_")
    functions = [
        TASK.format(name=f"r1vlm_{spec.name}_{task.name}", function=f"task_{number}", task=task.name)
        for number, task in enumerate(tasks, start=1)
    ]
    file = out / f"{name}.py"
    head = TASKS.format(dataset=spec.name, name=name, data=built.name, utils=UTILS)
    write_text(file, head + "".join(functions))
    write_readme(README, built, out, name=name)
    write_utils("inspect", built, out)
    return [
        f"{file}: {', '.join(task.name for task in tasks)}",
        f"  cd {out} && inspect eval {file.name} --model PROVIDER/MODEL",
    ]

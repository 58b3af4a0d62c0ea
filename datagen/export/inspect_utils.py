"""What inspect_ai calls for an exported task: its questions, and the rewards of what was answered.

`r1vlm-data export inspect` copies this file beside the tasks it writes. The prompt is the row's own; the rewards are
those of training and of `r1vlm-eval`, from the r1vlm beside inspect_ai.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from datagen.dataset.reader import open_dataset
from datagen.export.code import load_code
from datagen.export.judge import judge
from datagen.export.questions import truth

load_code(__file__)


def ask(data: str, task: str) -> Task:
    """The test questions of a task in the dataset `data`, answered greedily and judged by its rewards."""
    built = open_dataset(data)
    return Task(
        dataset=MemoryDataset([make_sample(row) for row in built.questions("test", [task])], name=built.spec.name),
        solver=generate(),
        scorer=rewards(),
        config=GenerateConfig(temperature=0, max_tokens=512),
        version=built.spec.version,
    )


def make_sample(row: Mapping[str, Any]) -> Sample:
    """A question: the system and the user message, the image before the text as in training, and what judges it."""
    system, user = (message["content"] for message in row["prompt"])
    buffer = io.BytesIO()
    row["image"].save(buffer, "PNG")
    image = ContentImage(image=f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    asked = [ChatMessageSystem(content=system), ChatMessageUser(content=[image, ContentText(text=user)])]
    return Sample(id=row["id"], input=asked, target=row["answer"], metadata=truth(row))


@scorer(metrics={"*": [mean(), stderr()]})
def rewards() -> Scorer:
    """Each reward of the question's task, by its name."""

    async def score(state: TaskState, target: Target) -> Score:
        said = generated(state.output.message)
        return Score(value=judge(state.metadata, said), answer=said)

    return score


def generated(message: ChatMessageAssistant) -> str:
    """What a model generated behind the opening words.

    inspect_ai cuts the first think block out of what a server sends, wherever it stands, and where nothing is left it
    gives the whole text beside it. It also keeps apart the reasoning that a server has cut off with its `</think>`.
    Either is put back in front, where the rewards see it.
    """
    said = str(message.text)
    for part in message.content:
        if isinstance(part, ContentReasoning):
            text = said.strip()
            is_all = text.startswith("<think") and text.endswith("</think>") and part.reasoning in text
            if not (part.internal == "think" and is_all):
                said = f"{'<think>' if part.internal == 'think' else ''}{part.reasoning}</think>{said}"
    return said

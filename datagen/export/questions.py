"""What the exports to other tools share: questions in forms that tools read, and the files beside them."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.common.errors import UserError
from datagen.common.files import atomic_path, write_text
from datagen.dataset.reader import BuiltDataset, undecoded
from datagen.export.code import write_code
from datagen.interaction import IMAGE_COLUMNS, question_images
from datagen.schema import image_columns
from datagen.task import DatasetSpec, Task

UTILS = "r1vlm_utils"  # no other task's utils.py is overwritten where the folder has some
ROWS = 200  # of a Parquet file are in memory at a time
PLACEHOLDERS = ("<image>", "<video>", "<audio>")  # in a text; trainers put the next image, video or sound there
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
TEMPLATE_NOTE = """\
MODEL is a checkpoint of r1vlm: its chat template ends the prompt with the opening words, behind which the rewards
expect what was generated. Give them to any other model first:

```python
from datagen.r1_format import with_opening
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained("NAME")
processor.chat_template = with_opening(processor.chat_template)
processor.save_pretrained("FOLDER")  # with the model's weights in it, this is MODEL
```
"""


def tasks_asked(built: BuiltDataset, split: str, tool: str) -> list[Task]:
    """The tasks that a split has questions of, which `tool` asks and judges.

    Raises:
        UserError: where they have several turns.
    """
    spec = built.spec
    if spec.has_turns:
        raise UserError(
            f"{spec.name} has tasks of several turns, which {tool} can't ask: use r1vlm-train and r1vlm-eval"
        )
    present = set(built.questions(split)["task"])
    return [task for task in spec.tasks if task.name in present]


def check_truth(spec: DatasetSpec, tool: str) -> None:
    """Check that the ground truth of a dataset is text and numbers, as tools keep it that keep it as JSON.

    Raises:
        UserError: where there are images in it.
    """
    images = [name for name in image_columns(spec) if name != spec.image_column]
    if images:
        raise UserError(
            f"{spec.name} is judged by images ({', '.join(images)}), which {tool} can't keep: use r1vlm's own"
        )


def truth(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row of `r1` judges an answer: its ids, task, answer and ground truth."""
    return {name: value for name, value in row.items() if name not in ("prompt", *IMAGE_COLUMNS, "solution")}


def rgb_image(content: bytes) -> bytes:
    """An image file of RGB: one that is, as it is, and one with a palette, transparency or grey as PNG.

    Some tools resize an image before they convert it, and scale the numbers of a palette's colours.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "RGB":
            return content
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def marked_text(row: Mapping[str, Any]) -> str:
    """The user's message of a row, with a placeholder for each of its images at the beginning.

    Raises:
        UserError: where the question's own text has a placeholder.
    """
    text = str(row["prompt"][-1]["content"])
    if found := [placeholder for placeholder in PLACEHOLDERS if placeholder in text]:
        raise UserError(
            f"the question {row['id']} has {found[0]} in its text, which would stand for another: reword it"
        )
    return PLACEHOLDERS[0] * len(question_images(row)) + text


def marked_messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The system and user message of a row, with a placeholder for each of its images before the question.

    Raises:
        UserError: where the question's own text has a placeholder.
    """
    return [row["prompt"][0], {"role": "user", "content": marked_text(row)}]


def write_questions(
    built: BuiltDataset,
    out: Path,
    tool: str,
    columns: Sequence[tuple[str, pa.DataType]],
    cells: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> None:
    """Write train.parquet and validation.parquet: `columns`, which `cells` gives for a row, and `images`.

    The files have no metadata of `datasets`, which some of its versions can't read: images are plain bytes.

    Raises:
        UserError: what `cells` raises, and where there is ground truth that `tool` can't keep.
    """
    check_truth(built.spec, tool)
    schema = pa.schema([*columns, ("images", IMAGES)])
    for split in ("train", "validation"):
        with atomic_path(out / f"{split}.parquet") as path, pq.ParquetWriter(path, schema) as writer:
            for rows in _batches(built, split):
                written = [
                    {
                        **cells(row),
                        "images": [
                            {"bytes": rgb_image(image["bytes"]), "path": None} for image in question_images(row)
                        ],
                    }
                    for row in rows
                ]
                writer.write_table(pa.Table.from_pylist(written, schema))


def _batches(built: BuiltDataset, split: str) -> Iterator[list[dict[str, Any]]]:
    questions = undecoded(built.questions(split))
    for start in range(0, len(questions), ROWS):
        yield questions.select(range(start, min(start + ROWS, len(questions)))).to_list()


def truth_text(row: Mapping[str, Any]) -> str:
    """`truth` as a JSON text, for tools that take one text a question."""
    return json.dumps(truth(row))


def write_readme(text: str, built: BuiltDataset, out: Path, **words: str) -> None:
    """Write README.md: a text with places for `words`, and for what the dataset, the folder and our file are called."""
    ours = {"dataset": built.spec.name, "data": built.name, "out": shlex.quote(str(out.resolve())), "utils": UTILS}
    write_text(out / "README.md", text.format(**ours, note=TEMPLATE_NOTE, **words))


def write_utils(tool: str, built: BuiltDataset, out: Path) -> None:
    """Write what a tool calls beside what it reads: a copy of our file for it, and the dataset's own code.

    A file that imports the tool is a template: every module of this package can be imported without one.
    """
    (utils,) = Path(__file__).parent.glob(f"{tool}_utils.*")
    write_text(out / f"{UTILS}.py", utils.read_text(encoding="utf-8"))
    write_code(built.spec.name, out)

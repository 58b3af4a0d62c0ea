"""`r1vlm-eval play`: a page on this machine to ask a checkpoint, or two, and to see where they look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from datagen.common.command_line import APP

app = typer.Typer(**APP)


@app.command()
def play(
    checkpoint: Annotated[str, Argument(metavar="CHECKPOINT", help="A checkpoint folder, or USER/NAME on the Hub.")],
    *,
    baseline: Annotated[str | None, Option(metavar="OTHER", help="Let this checkpoint answer beside it.")] = None,
    data: Annotated[
        str | None,
        Option(
            metavar="DATASET",
            help="Draw questions of this dataset or task: a name, a folder, or USER/NAME on the Hub.",
            show_default="the one in the checkpoint's record",
        ),
    ] = None,
    task_file: Annotated[
        Path | None,
        Option(metavar="FILE.py", help="Know the datasets of this file. It is run.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, Option(metavar="N", min=1, help="End a message after N tokens.")] = 512,
    port: Annotated[
        int | None,
        Option(
            metavar="N", min=1, max=65535, help="Port of the page on 127.0.0.1.", show_default="a free one from 7860"
        ),
    ] = None,
) -> None:
    """Open a page on which a checkpoint answers: its rewards, and where it looks at each token."""
    from evaluation.play.command import PlayConfig, play

    play(PlayConfig(checkpoint, baseline, data, task_file, max_new_tokens, port))

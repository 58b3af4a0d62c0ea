"""The flags that say where to publish, the same for all three commands."""

from __future__ import annotations

from typing import Annotated

import typer

from datagen.common.errors import UserError
from datagen.hub.publish import PublishOptions

PANEL = "Publishing on the Hugging Face Hub"
Repo = Annotated[
    str | None,
    typer.Option(
        metavar="USER/NAME",
        help="Repository to publish to.",
        show_default="a name under your own account",
        rich_help_panel=PANEL,
    ),
]
Revision = Annotated[
    str | None, typer.Option(metavar="BRANCH", help="Branch to publish to.", show_default="main", rich_help_panel=PANEL)
]
CreatePR = Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.", rich_help_panel=PANEL)]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.", rich_help_panel=PANEL)]
Force = Annotated[bool, typer.Option("--force", help="Replace whatever the repository holds.", rich_help_panel=PANEL)]


def publish_options(wanted: bool, flag: str, options: PublishOptions) -> PublishOptions | None:
    """The options where something is to be published, else None.

    Raises:
        UserError: where the options say how to publish, and `flag`, which says that, is missing.
    """
    if wanted:
        return options
    for name in ("repo", "revision", "create_pr", "private", "force"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} says how to publish: add {flag}, or leave it out")
    return None

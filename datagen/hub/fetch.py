"""What is on the Hugging Face Hub: repositories by name, and what they hold, downloaded once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from datagen.hub.errors import causes_of, endpoint, hub_errors_explained, with_retries

Kind = Literal["dataset", "model"]

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # no pickles, no code


def parse_repo_id(text: str) -> tuple[str, str | None] | None:
    """`(USER/NAME, revision)` where `text` names a repository, else None.

    It does not where there is such a path here, or at least its first folder: then a file was mistyped.
    """
    match = NAME.fullmatch(text)
    if match is None or Path(text).exists() or (Path(text).parts[0] != text and Path(Path(text).parts[0]).is_dir()):
        return None
    return match[1], match[2]


@cache  # a run names its model several times, and is to see one commit of it
def download(text: str, kind: Kind, patterns: tuple[str, ...] = ("*",)) -> tuple[Path, str]:
    """Download what a repository holds into the cache, once: `(folder, USER/NAME@commit)`.

    `text` is USER/NAME or USER/NAME@REVISION. Of a dataset come the files that fit `patterns`; of a model its weights
    and settings, without pickles, code and sub-folders.

    Raises:
        UserError: where there is no such repository or revision, or it can't be read.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    parsed = parse_repo_id(text)
    if parsed is None:
        raise RuntimeError(f"{text} names no repository")
    repo, revision = parsed

    def snapshot(revision: str | None, *, here: bool = False) -> Path:
        return Path(
            snapshot_download(
                repo,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns if kind == "dataset" else ("README.md", *MODEL_FILES)),
                ignore_patterns=None if kind == "dataset" else "*/*",
                local_files_only=here,
            )
        )

    def latest() -> Path:
        # Asked for first: where the Hub is busy or the repository gone, the download alone takes an older one silently.
        commit = HfApi().repo_info(repo, repo_type=kind, revision=revision).sha
        folder = snapshot(revision)
        return folder if folder.name == commit else snapshot(commit)

    with hub_errors_explained(repo, kind, revision):
        try:
            folder = snapshot(revision, here=True) if HF_HUB_OFFLINE else with_retries(latest)
        except Exception as error:
            cached = _cached(error, snapshot, revision)
            if cached is None:
                raise
            folder = cached
            print(f"can't reach {endpoint()}: taking {repo} as it was downloaded before", file=sys.stderr, flush=True)
    return folder, f"{repo}@{folder.name}"


def _cached(error: Exception, snapshot: Callable[..., Path], revision: str | None) -> Path | None:
    """What was downloaded before, where there is no network at all; else None."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    if not any(isinstance(cause, httpx.ConnectError) for cause in causes_of(error)):
        return None
    try:
        return snapshot(revision, here=True)
    except LocalEntryNotFoundError:
        return None

"""The Hugging Face Hub: fetching what a repository holds, and publishing a folder. Nothing else here speaks to it.

The environment is that of every Hugging Face tool: `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from datagen.errors import UserError
from datagen.files import sha256

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "model"]
T = TypeVar("T")

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
PASSING = (408, 412, 429, 500, 502, 503, 504)  # a later try may end otherwise; 412: another commit came in between
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")  # no pickles, no code
LEFT_ALONE = ".gitattributes"  # the Hub's own, in every repository


@dataclass(frozen=True)
class Target:
    """Where something is published, and how."""

    kind: Kind
    repo: str
    private: bool
    revision: str | None
    create_pr: bool
    force: bool


@dataclass(frozen=True)
class Published:
    """The page of what was published, its commit, and whether that is `new`."""

    url: str
    commit: str
    new: bool

    def __str__(self) -> str:
        """The line that tells the user."""
        return f"{self.url}: {'published' if self.new else 'already there, the same'}, commit {self.commit}"


def add_options(group: argparse._ArgumentGroup, *, whole: bool = True) -> None:
    """The options that say where to publish, for `target`; fewer where it isn't the `whole` of a repository."""
    group.set_defaults(private=False, force=False)
    group.add_argument("--repo", metavar="USER/NAME", help="the repository [that name under your own]")
    group.add_argument("--revision", metavar="BRANCH", help="publish to this branch, made where it is missing [main]")
    group.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    if whole:
        group.add_argument("--private", action="store_true", help="make a new repository private")
        group.add_argument("--force", action="store_true", help="replace what the repository holds, whatever that is")


def target(arguments: argparse.Namespace, kind: Kind, name: str) -> Target:
    """Where the options say to publish; `name` is the repository's, unless they name one.

    Asked before the work begins, so that nobody trains for a day and then finds no token.

    Raises:
        UserError: where nobody is logged in, the token can't write, or the name can't be.
    """
    from huggingface_hub import HfApi

    if arguments.create_pr and arguments.revision:
        raise UserError("a pull request goes to the main branch: leave out --revision or --create-pr")
    if arguments.repo is not None and (NAME.fullmatch(arguments.repo) is None or "@" in arguments.repo):
        raise UserError(f"--repo {arguments.repo} is no repository: write USER/NAME")
    with speaking(arguments.repo or name, kind):
        me = patiently(HfApi().whoami)
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("your token may only read: log in with one that may write (hf auth login, or HF_TOKEN)")
    return Target(
        kind,
        arguments.repo or f"{me['name']}/{name}",
        arguments.private,
        arguments.revision,
        arguments.create_pr,
        arguments.force,
    )


def repository(text: str) -> tuple[str, str | None] | None:
    """`(USER/NAME, revision)` where `text` names a repository, else None.

    It does not where there is such a path here, or at least its first folder: then a file was mistyped.
    """
    match = NAME.fullmatch(text)
    if match is None or Path(text).exists() or (Path(text).parts[0] != text and Path(Path(text).parts[0]).is_dir()):
        return None
    return match[1], match[2]


def fetch(text: str, kind: Kind, patterns: tuple[str, ...] = ("*",)) -> tuple[Path, str]:
    """Download what a repository holds into the cache, once: `(folder, USER/NAME@commit)`.

    `text` is USER/NAME or USER/NAME@REVISION. Of a dataset come the files that fit `patterns`; of a model its weights
    and settings, without pickles, code and sub-folders.

    Raises:
        UserError: where there is no such repository or revision, or it can't be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    named = repository(text)
    if named is None:
        raise RuntimeError(f"{text} names no repository")
    repo, revision = named
    with speaking(repo, kind, revision):
        folder = Path(
            patiently(
                lambda: snapshot_download(
                    repo,
                    repo_type=kind,
                    revision=revision,
                    allow_patterns=list(patterns if kind == "dataset" else ("README.md", *MODEL_FILES)),
                    ignore_patterns=None if kind == "dataset" else "*/*",
                    local_files_only=HF_HUB_OFFLINE,
                )
            )
        )
    return folder, f"{repo}@{folder.name}"


@dataclass(frozen=True)
class Mark:
    """What tells that a repository holds this very thing: the `value` of a key in a JSON file there."""

    file: str
    key: str
    value: Any


def publish(to: Target, files: Mapping[str, Path | bytes], mark: Mark, *, whole: bool = True) -> Published:
    """Publish files, by their names in the repository, in one commit. Others are removed where these are the `whole`.

    A repository that holds something else (by its `mark`) is replaced only by force, and never gets a mere part.
    Files are uploaded first, those that the Hub has already are not sent again, and the commit comes last: an upload
    that is cut off leaves the repository as it was, and the same command goes on. huggingface_hub's `upload_folder`
    isn't used, since it publishes in several commits (1.33).

    Raises:
        UserError: where the repository holds something else, or the Hub refuses; nothing has been published then.
    """
    from huggingface_hub import HfApi

    with speaking(to.repo, to.kind, to.revision):
        return patiently(lambda: _publish(HfApi(), to, files, mark, whole))


def _publish(api: HfApi, to: Target, files: Mapping[str, Path | bytes], mark: Mark, whole: bool) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if whole and not api.repo_exists(to.repo, repo_type=to.kind):
        api.create_repo(to.repo, repo_type=to.kind, private=to.private or None, exist_ok=True)
    url = f"{api.endpoint}/{'datasets/' if to.kind == 'dataset' else ''}{to.repo}"
    made = whole and to.revision is not None and not _has_branch(api, to)
    if made:
        api.create_branch(to.repo, repo_type=to.kind, branch=str(to.revision), exist_ok=True)
    head = api.repo_info(to.repo, repo_type=to.kind, revision=to.revision).sha
    there = _files_at(api, to, head)
    stale = [name for name in there if name not in files] if whole else []
    if there and not stale and _unchanged(api, to, head, there, files):
        return Published(url, str(head), new=False)
    same = mark.file in there and _value(_read(api, to, head, mark.file), mark.key) == mark.value
    if not (same or (whole and (not there or made or to.create_pr or to.force))):
        advice = "name another --repo, or replace it with --force" if whole else "publish the checkpoint there first"
        raise UserError(f"{to.repo} holds something else: {advice}")
    done = api.create_commit(
        to.repo,
        [*map(CommitOperationDelete, stale), *(CommitOperationAdd(name, content) for name, content in files.items())],
        repo_type=to.kind,
        revision=to.revision,
        commit_message=f"r1vlm: {len(files)} files",
        create_pr=to.create_pr,
        parent_commit=None if to.create_pr else head,  # two pushes at once: the later one looks again
    )
    return Published(done.pr_url or url, done.oid, new=True)


def has_file(at: Target, name: str) -> bool:
    """Whether the repository has that file.

    Raises:
        UserError: where the Hub can't be asked.
    """
    from huggingface_hub import HfApi

    with speaking(at.repo, at.kind, at.revision):
        return patiently(lambda: HfApi().file_exists(at.repo, name, repo_type=at.kind, revision=at.revision))


def _value(text: bytes, key: str) -> Any:
    """The value of a key in a JSON object; None where it has none, or it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found.get(key) if isinstance(found, dict) else None


def _has_branch(api: HfApi, to: Target) -> bool:
    return any(branch.name == to.revision for branch in api.list_repo_refs(to.repo, repo_type=to.kind).branches)


def _files_at(api: HfApi, to: Target, commit: str | None) -> dict[str, Any]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(to.repo, recursive=True, repo_type=to.kind, revision=commit)
    return {one.path: one for one in tree if isinstance(one, RepoFile) and one.path != LEFT_ALONE}


def _unchanged(
    api: HfApi, to: Target, commit: str | None, there: Mapping[str, Any], files: Mapping[str, Path | bytes]
) -> bool:
    """Whether the commit holds these files. Large ones are compared by their SHA-256."""

    def same(name: str, ours: Path | bytes) -> bool:
        if there[name].lfs:
            digest = hashlib.sha256(ours).hexdigest() if isinstance(ours, bytes) else sha256(ours)
            return bool(digest == there[name].lfs.sha256)
        return _read(api, to, commit, name) == _bytes(ours)

    return all(name in there and same(name, ours) for name, ours in files.items())


def _bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _read(api: HfApi, to: Target, commit: str | None, name: str) -> bytes:
    return Path(api.hf_hub_download(to.repo, name, repo_type=to.kind, revision=commit)).read_bytes()


def patiently(action: Callable[[], T]) -> T:
    """What `action` returns; tried again, with a line on stderr, where the Hub was busy or the connection broke."""
    for wait in WAITS:
        try:
            return action()
        except Exception as error:
            reason = _passing(error)
            if reason is None:
                raise
            print(f"the Hub did not do it ({reason}): trying again in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    return action()


def _passing(error: BaseException) -> str | None:
    """What went wrong, where a later try may end otherwise. No connection at all is no such case: nothing was begun."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return f"answer {cause.response.status_code}" if cause.response.status_code in PASSING else None
        if isinstance(cause, httpx.ConnectError | OfflineModeIsEnabled):
            return None
        if isinstance(cause, httpx.TransportError | ConnectionError):  # the second is hf_xet's
            return "the connection broke"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class _WithoutAddresses(logging.Filter):
    """Drops what names an address: those of uploads are signed, and a log is no place for them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "://" not in record.getMessage()


@contextmanager
def speaking(repo: str, kind: Kind, revision: str | None = None) -> Iterator[None]:
    """Turn what may go wrong between us and the Hub into a `UserError`; other exceptions pass."""
    import httpx
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, LocalTokenNotFoundError

    log, without = logging.getLogger("huggingface_hub.utils._http"), _WithoutAddresses()
    log.addFilter(without)
    try:
        yield
    except (httpx.HTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError, HFValidationError, OSError) as error:
        sentence = _sentence(error, repo, kind, revision)
        if sentence is None:
            raise
        raise UserError(sentence) from error
    finally:
        log.removeFilter(without)


def _sentence(error: BaseException, repo: str, kind: Kind, revision: str | None) -> str | None:
    """What to tell the user; None for an error that isn't the Hub's."""
    import httpx
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    hub = ENDPOINT.rpartition("@")[2]  # without a password
    causes = list(_causes(error))

    def among(*kinds: type[BaseException]) -> Any:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if answer := among(errors.HfHubHTTPError):
        return _refusal(answer, repo, kind, revision, hub)
    known: list[tuple[type[BaseException], str]] = [
        (errors.LocalTokenNotFoundError, "you are not logged in: run  hf auth login  or set HF_TOKEN"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set: unset it to publish"),
        (httpx.TransportError, f"can't reach {hub}: check the network, then run the same command again"),
        (ConnectionError, f"can't reach {hub}: check the network, then run the same command again"),
        (
            errors.LocalEntryNotFoundError,
            f"there is no folder {repo} here, and no {kind} of that name has been downloaded: check the name, or "
            "unset HF_HUB_OFFLINE",
        ),
        (errors.HFValidationError, f"{repo} is no repository: write USER/NAME"),
    ]
    return next((sentence for kind_of_error, sentence in known if among(kind_of_error)), None)


def _refusal(error: Any, repo: str, kind: Kind, revision: str | None, hub: str) -> str:
    """What to tell the user of an answer that is not what was asked for."""
    from huggingface_hub import errors

    status, said = error.response.status_code, " ".join((error.server_message or "").split())[:300]
    if status in PASSING:
        return f"{hub} is busy (answer {status}): run the same command again later"
    known: list[tuple[bool, str]] = [
        (
            isinstance(error, errors.GatedRepoError),
            f"{repo} is gated: ask for access on its page, and log in with  hf auth login",
        ),
        (
            isinstance(error, errors.RevisionNotFoundError),
            f"{repo} has no revision {revision}: name a branch, a tag or a commit behind the @",
        ),
        (
            isinstance(error, errors.RepositoryNotFoundError),
            f"there is no folder {repo} here, and no {kind} of that name on {hub} that you may read: check the name, "
            "or log in with  hf auth login",
        ),
        (status == 401, f"{hub} does not accept your token: log in again with  hf auth login  or set HF_TOKEN"),
        (
            status == 403,
            f"your token may not do this with {repo}: take one that may (hf auth login), or another repository",
        ),
    ]
    refused = f"{hub} refuses {repo} (answer {status}{': ' + said if said else ''})"
    return next((sentence for applies, sentence in known if applies), refused)

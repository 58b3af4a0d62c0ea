"""The Hugging Face Hub: fetching what a repository holds, and publishing a folder. Nothing else here speaks to it.

The environment is that of every Hugging Face tool: `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.hub.errors import endpoint, hub_errors_explained, with_retries
from datagen.hub.fetch import NAME, Kind

if TYPE_CHECKING:
    from huggingface_hub import HfApi


OURS = {"dataset": ("r1/*", "raw/*", "examples/*"), "model": ("*.safetensors",)}  # what a newer version may remove
PULLS = 20  # pull requests, the latest, among which the same content is looked for


@dataclass(frozen=True)
class PublishOptions:
    """How to publish on the Hub: `repo` is USER/NAME (None: a name under your own account), `revision` a branch."""

    repo: str | None = None
    revision: str | None = None
    create_pr: bool = False
    private: bool = False
    force: bool = False


@dataclass(frozen=True)
class PublishTarget:
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


def resolve_target(options: PublishOptions, kind: Kind, name: str) -> PublishTarget:
    """Where the options say to publish; `name` is the repository's, unless they name one.

    Asked before the work begins, so that nobody trains for a day and then finds no token.

    Raises:
        UserError: where nobody is logged in, the token can't write, or the name can't be.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils._validators import validate_repo_id

    if options.create_pr and options.revision:
        raise UserError("a pull request goes to the main branch: leave out --revision or --create-pr")
    if options.repo is not None and (NAME.fullmatch(options.repo) is None or "@" in options.repo):
        raise UserError(f"--repo {options.repo} is no repository: write USER/NAME")
    with hub_errors_explained(options.repo or name, kind):
        me = with_retries(HfApi().whoami)
        role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise UserError("your token may only read: log in with one that may write (hf auth login, or HF_TOKEN)")
        repo = options.repo or f"{me['name']}/{name}"
        validate_repo_id(repo)
    return PublishTarget(kind, repo, options.private, options.revision, options.create_pr, options.force)


@dataclass(frozen=True)
class RepoIdentity:
    """What tells that a repository holds this very thing: the `value` of a key in a JSON file there."""

    file: str
    key: str
    value: Any


def publish(
    target: PublishTarget,
    files: Mapping[str, Path | bytes],
    identity: RepoIdentity,
    *,
    whole: bool = True,
    no_change: str | None = None,
) -> Published:
    """Publish files, by their names in the repository, in one commit.

    A repository that holds something else (by its `identity`) is replaced only by force. Where these files are the
    `whole` of it, older files of ours are removed (by force, all others too); where they are a part, the rest must be
    there. The file `no_change` is not published for its own sake.

    Files are uploaded first, those that the Hub has already are not sent again, and the commit comes last: an upload
    that is cut off leaves the repository as it was, and the same command goes on. huggingface_hub's `upload_folder`
    isn't used, since with Xet it publishes in several commits (1.33).

    Raises:
        UserError: where the repository holds something else, or the Hub refuses; nothing has been published then.
    """
    from huggingface_hub import HfApi

    with hub_errors_explained(target.repo, target.kind, target.revision):
        return with_retries(lambda: _publish(_Remote(HfApi(), target), files, identity, whole, no_change))


def _publish(
    remote: _Remote, files: Mapping[str, Path | bytes], identity: RepoIdentity, whole: bool, no_change: str | None
) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.constants import REGEX_COMMIT_OID

    target = remote.target
    head, fresh = remote.head(make=whole)
    present = remote.files(head)
    same = identity.file in present and _value(remote.read(head, identity.file), identity.key) == identity.value
    if not (same or (whole and (not present or fresh or target.create_pr or target.force))):
        advice = "name another --repo, or replace it with --force" if whole else "publish the checkpoint there first"
        raise UserError(f"{target.repo} holds something else: {advice}")
    replaced = target.force or target.create_pr or fresh
    stale = [name for name in present if name not in files and (replaced or remote.is_ours(name))] if whole else []
    wanted = {name: content for name, content in files.items() if not (same and name == no_change)}
    if not stale and remote.holds(head, present, wanted):
        return Published(remote.url, str(head), new=False)
    if target.create_pr and (pull := remote.pull_with(files)):
        return pull
    additions = [CommitOperationAdd(name, content) for name, content in files.items()]
    # By its own will the Hub would leave out what the repository's .gitignore names, and say nothing.
    settings = {**remote.repo, "revision": target.revision, "create_pr": target.create_pr}
    remote.api.preupload_lfs_files(**settings, additions=additions, gitignore_content="", free_memory=False)
    done = remote.api.create_commit(
        **settings,
        operations=[*map(CommitOperationDelete, stale), *additions],
        commit_message=f"r1vlm: {len(files)} files",
        # Two pushes at once: the later one looks again.
        parent_commit=None if target.create_pr or not REGEX_COMMIT_OID.fullmatch(str(head)) else head,
    )
    return Published(done.pr_url or remote.url, done.oid, new=True)


@dataclass(frozen=True)
class _Remote:
    """A repository as it is on the Hub."""

    api: HfApi
    target: PublishTarget

    @property
    def repo(self) -> dict[str, Any]:
        """Which one, for huggingface_hub."""
        return {"repo_id": self.target.repo, "repo_type": self.target.kind}

    @property
    def url(self) -> str:
        """Its page."""
        return f"{endpoint()}/{'datasets/' if self.target.kind == 'dataset' else ''}{self.target.repo}"

    def head(self, *, make: bool) -> tuple[str | None, bool]:
        """The commit to go on from, and whether its branch has nothing that main hasn't.

        Repository and branch are made where they are missing, if they may be.

        Raises:
            UserError: where a private repository is asked for and it is public, or it isn't there and can't be made.
        """
        from huggingface_hub.errors import HfHubHTTPError

        try:
            main = self.api.repo_info(**self.repo)
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 404):
                raise
            if not make:
                raise UserError(f"there is no {self.target.repo} yet: publish the checkpoint there first") from error
            self.api.create_repo(**self.repo, private=self.target.private or None, exist_ok=True)
            main = self.api.repo_info(**self.repo)
        if self.target.private and main.private is False:
            raise UserError(f"{self.target.repo} is public already: name another --repo, or leave out --private")
        if self.target.revision is None:
            return main.sha, False
        if make:
            self.api.create_branch(**self.repo, branch=self.target.revision, exist_ok=True)
        head = self.api.repo_info(**self.repo, revision=self.target.revision).sha
        return head, self.target.revision != "main" and head == main.sha

    def files(self, commit: str | None) -> dict[str, Any]:
        """The files of a commit by their names, without those that are the Hub's and git's own (`.gitattributes`)."""
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.hf_api import RepoFile

        try:
            tree = list(self.api.list_repo_tree(**self.repo, recursive=True, revision=commit))
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            tree = []  # a repository without a commit
        files = [one for one in tree if isinstance(one, RepoFile)]
        return {one.path: one for one in files if not any(part.startswith(".") for part in one.path.split("/"))}

    def read(self, commit: str | None, name: str) -> bytes:
        """What a file holds."""
        return Path(self.api.hf_hub_download(**self.repo, filename=name, revision=commit)).read_bytes()

    def holds(self, commit: str | None, present: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> bool:
        """Whether a commit has these files. Large ones are compared by their SHA-256, small ones as git does."""
        from huggingface_hub.utils.sha import git_hash

        def same(name: str, ours: Path | bytes) -> bool:
            if present[name].lfs:
                digest = hashlib.sha256(ours).hexdigest() if isinstance(ours, bytes) else sha256(ours)
                return bool(digest == present[name].lfs.sha256)
            content = ours if isinstance(ours, bytes) else ours.read_bytes()
            return git_hash(content) == present[name].blob_id or self.read(commit, name) == content

        return all(name in present and same(name, ours) for name, ours in files.items())

    def is_ours(self, name: str) -> bool:
        """Whether a file is one that an older version of the same has left."""
        return any(fnmatchcase(name, pattern) for pattern in OURS[self.target.kind])

    def pull_with(self, files: Mapping[str, Path | bytes]) -> Published | None:
        """A late pull request that has just these files: that of a push whose answer was lost, or of one before."""
        refs = self.api.list_repo_refs(**self.repo, include_pull_requests=True).pull_requests or []
        numbers = sorted(((int(one.name.rpartition("/")[2]), one.target_commit) for one in refs), reverse=True)
        for number, commit in numbers[:PULLS]:
            present = self.files(commit)
            if present.keys() == files.keys() and self.holds(commit, present, files):
                return Published(f"{self.url}/discussions/{number}", commit, new=False)
        return None


def published_files(target: PublishTarget, identity: RepoIdentity) -> set[str]:
    """The names of the files in a repository that holds what the identity says.

    Raises:
        UserError: where there is no such repository, or it holds something else.
    """
    from huggingface_hub import HfApi

    def list_files() -> set[str]:
        remote = _Remote(HfApi(), target)
        head, _ = remote.head(make=False)
        present = remote.files(head)
        if identity.file not in present or _value(remote.read(head, identity.file), identity.key) != identity.value:
            raise UserError(f"{target.repo} holds something else: publish the checkpoint there first")
        return set(present)

    with hub_errors_explained(target.repo, target.kind, target.revision):
        return with_retries(list_files)


def _value(text: bytes, key: str) -> Any:
    """The value of a key in a JSON object; None where it has none, or it is none."""
    from datagen.common.untrusted import parse_json

    try:
        value = parse_json(text)
    except ValueError:
        return None
    return value.get(key) if isinstance(value, dict) else None

"""A Hugging Face Hub of the tests' own, on loopback: enough of its HTTP interface for the real client libraries.

Repositories live in memory. `hub.fail(...)` makes it answer wrongly for a while, or break a connection in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import yaml

from tests.loopback import listening

LARGE = (".parquet", ".safetensors", ".png")  # what .gitattributes sends to LFS
Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: what each commit holds, and the commit of each branch."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    pulls: int = 0

    def commit(self, files: Files, branch: str) -> str:
        """A new commit of these files on a branch; returns its name."""
        name = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    @property
    def main(self) -> Files:
        """The files of the main branch, without what every repository has."""
        return {name: content for name, content in self.commits[self.branches["main"]].items() if name[0] != "."}


@dataclass
class Fault:
    """What the Hub does wrong, for the next `times` requests that match."""

    method: str
    pattern: str
    answer: int | str  # a status; `cut` in the middle; `lost`: done, but the answer never comes; `slow`: never done
    times: int
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """The state of the server, for tests to look at and to change."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.repos: dict[str, Repo] = {}  # by datasets/USER/NAME or models/USER/NAME
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.tokens = {"hf_writes": ("ada", "write"), "hf_reads": ("ada", "read"), "hf_fine": ("ada", "fineGrained")}
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.lock = threading.RLock()

    def fail(self, method: str, pattern: str, answer: int | str, times: int = 1, **headers: str) -> None:
        """Answer so, or cut the connection, for the next requests whose method and path match."""
        self.faults.append(Fault(method, pattern, answer, times, {k.replace("_", "-"): v for k, v in headers.items()}))

    def put(self, name: str, files: Files, **about: bool) -> Repo:
        """Put a repository there, as somebody else would have."""
        repo = self.repos[name] = Repo(**about)
        repo.commit({".gitattributes": b"*.parquet filter=lfs\n", **files}, "main")
        return repo

    def writes(self) -> int:
        """How many commits have been asked for."""
        return sum("/commit/" in line for line in self.seen)


class Refusal(Exception):
    """An answer that is not a 200."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


def is_large(path: str) -> bool:
    """Whether a file is stored apart, by its SHA-256."""
    return path.endswith(LARGE)


def blob(content: bytes) -> str:
    """The name git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    sha = hashlib.sha256(content).hexdigest()
    about = {"type": "file", "path": path, "size": len(content), "oid": blob(content)}
    return about | ({"lfs": {"oid": sha, "size": len(content), "pointerSize": 134}} if is_large(path) else {})


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do(self) -> None:
        """Answer any request."""
        path = unquote(urlsplit(self.path).path)
        self.query = urlsplit(self.path).query
        length = int(self.headers.get("Content-Length") or 0)
        with self.hub.lock:
            self.hub.seen.append(f"{self.command} {path}")
            fault = next(
                (f for f in self.hub.faults if f.times and f.method == self.command and re.search(f.pattern, path)),
                None,
            )
            if fault:
                fault.times -= 1
        if fault and fault.answer == "slow":
            time.sleep(60)
        if fault and (fault.answer == "slow" or (fault.answer == "cut" and self.command != "GET")):
            self.rfile.read(length // 2)
            self.hang_up()
            return
        self.body = self.rfile.read(length)
        self.cut, self.lost = bool(fault and fault.answer == "cut"), bool(fault and fault.answer == "lost")
        try:
            if fault and isinstance(fault.answer, int):
                self.send(fault.answer, b"<html>not now</html>", dict(fault.headers))
            else:
                with self.hub.lock:
                    self.route(path)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self.send(refusal.status, json.dumps({"error": refusal.message, **refusal.more}).encode(), headers)

    do_GET = do_POST = do_PUT = do_HEAD = do

    def hang_up(self) -> None:
        """Break the connection."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer, half of it, or nothing."""
        if self.lost:
            self.hang_up()
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.close_connection = True

    def json(self, value: Any) -> None:
        """Send a value."""
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @property
    def user(self) -> tuple[str, str] | None:
        """The name and the role that the token gives."""
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def route(self, path: str) -> None:
        """Find what is asked for."""
        routes = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("GET", r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            ("GET", r"/api/(datasets|models)/([^/]+/[^/]+)/refs", self.refs),
            ("GET", r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", self.tree),
            ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/paths-info/(.+)", self.paths_info),
            ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/branch/(.+)", self.branch),
            ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            ("POST", r"/api/(datasets|models)/([^/]+/[^/]+)/commit/(.+)", self.commit),
            ("POST", r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/large/([0-9a-f]{64})", self.upload),
            ("GET", r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", self.resolve),
        ]
        for method, pattern, answer in routes:
            match = re.fullmatch(pattern, path)
            if match and method == self.command.replace("HEAD", "GET"):
                answer(*match.groups())
                return
        raise Refusal(404, message=f"no such endpoint: {self.command} {path}")

    def repo(self, kind: str | None, name: str, *, write: bool = False) -> Repo:
        """The repository, where the token may read it (or write to it)."""
        repo = self.hub.repos.get(f"{kind or 'models'}/{name}")
        owner = name.partition("/")[0]
        if self.headers.get("Authorization") and self.user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        mine = self.user is not None and self.user[0] == owner
        if repo is None or (repo.private and not mine):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and not (mine and self.user and self.user[1] == "write"):
            raise Refusal(403, message="You don't have the right to write here")
        return repo

    def at(self, repo: Repo, revision: str | None) -> str:
        """The commit of a revision."""
        name = repo.branches.get(revision or "main", revision or "")
        if name not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name

    def whoami(self) -> None:
        """GET whoami-v2."""
        if self.user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        name, role = self.user
        self.json({"type": "user", "name": name, "auth": {"type": "access_token", "accessToken": {"role": role}}})

    def create(self) -> None:
        """POST repos/create."""
        asked = json.loads(self.body)
        if self.user is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        owner = asked.get("organization") or self.user[0]
        key = f"{asked.get('type') or 'model'}s/{owner}/{asked['name']}"
        url = f"{self.hub.address}/{key.removeprefix('models/')}"
        if owner != self.user[0] or self.user[1] != "write":
            raise Refusal(403, message="You don't have the right to create this repository")
        if key in self.hub.repos:
            raise Refusal(409, message="You already created this repository", url=url)
        self.hub.put(key, {}, private=asked.get("visibility") == "private")
        self.json({"url": url})

    def validate(self) -> None:
        """POST validate-yaml: the front matter must be YAML, with a licence."""
        try:
            front = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
        except (IndexError, yaml.YAMLError) as error:
            raise Refusal(400, message="the front matter is no YAML") from error
        errors = [] if isinstance(front, dict) and front.get("license") else [{"message": '"license" is missing'}]
        self.send(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())

    def info(self, kind: str, name: str, revision: str | None) -> None:
        """GET what a repository is."""
        repo = self.repo(kind, name)
        sha = self.at(repo, revision)
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        about = {"id": name, "sha": sha, "private": repo.private, "gated": "auto" if repo.gated else False}
        self.json({**about, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "disabled": False})

    def refs(self, kind: str, name: str) -> None:
        """GET the branches."""
        refs = self.repo(kind, name).branches.items()
        listed = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in refs if "refs/" not in n]
        pulls = [{"name": n, "ref": n, "targetCommit": c} for n, c in refs if "refs/" in n]
        self.json({"branches": listed, "converts": [], "tags": [], "pullRequests": pulls})

    def tree(self, kind: str, name: str, revision: str, under: str | None) -> None:
        """GET the files."""
        repo = self.repo(kind, name)
        files = repo.commits[self.at(repo, revision)]
        start = f"{under}/" if under else ""
        inside = {path: content for path, content in files.items() if path.startswith(start)}
        if not inside:
            raise Refusal(404, "EntryNotFound", f"{under} does not exist")
        folders = {"/".join(path.split("/")[:i]) for path in inside for i in range(1, path.count("/") + 1)}
        entries = [{"type": "directory", "path": path, "oid": blob(path.encode()), "size": 0} for path in folders]
        entries += [entry(path, content) for path, content in inside.items()]
        if "recursive=true" not in self.query.lower():
            entries = [one for one in entries if "/" not in one["path"].removeprefix(start)]
        self.json([one for one in entries if one["path"] != under])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        """POST some paths."""
        repo = self.repo(kind, name)
        files = repo.commits[self.at(repo, revision)]
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = [unquote(pair.partition("=")[2]) for pair in self.body.decode().split("&") if pair[:5] == "paths"]
        found = [entry(path, files[path]) for path in paths if path in files]
        found += [
            {"type": "directory", "path": path, "oid": blob(path.encode()), "size": 0}
            for path in paths
            if any(other.startswith(f"{path}/") for other in files)
        ]
        self.json(found)

    def branch(self, kind: str, name: str, branch: str) -> None:
        """POST a new branch."""
        repo = self.repo(kind, name, write=True)
        if branch in repo.branches:
            raise Refusal(409, message="Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self.json({})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        """POST what is to be uploaded, and how."""
        repo = self.repo(kind, name, write=True)
        files = repo.commits[self.at(repo, revision)]
        body = json.loads(self.body)
        ignored = body.get("gitIgnore", files.get(".gitignore", b"").decode()).split()
        answer: list[dict[str, Any]] = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                "shouldIgnore": any(fnmatchcase(one["path"], pattern) for pattern in ignored),
            }
            for one in body["files"]
        ]
        for one in answer:
            old = files.get(one["path"])
            if old is not None:
                one["oid"] = hashlib.sha256(old).hexdigest() if is_large(one["path"]) else blob(old)
        self.json({"files": answer})

    def batch(self, kind: str | None, name: str) -> None:
        """POST which large files are to come."""
        self.repo(kind, name, write=True)
        objects: list[dict[str, Any]] = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.large:
                one["actions"] = {"upload": {"href": f"{self.hub.address}/large/{one['oid']}?X-Signature=secret"}}
        self.json({"transfer": "basic", "objects": objects})

    def upload(self, sha: str) -> None:
        """PUT a large file."""
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise Refusal(400, message="another SHA-256")
        self.hub.large[sha] = self.body
        self.send(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        """POST a commit."""
        repo = self.repo(kind, name, write=True)
        head = self.at(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files, branch, pull = dict(repo.commits[head]), revision, None
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, head):
                raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        if "create_pr=1" in self.query:
            repo.pulls += 1
            branch = f"refs/pr/{repo.pulls}"
            pull = f"{self.hub.address}/{'datasets/' * (kind == 'datasets')}{name}/discussions/{repo.pulls}"
        done = repo.commit(files, branch)
        url = f"{self.hub.address}/{'datasets/' * (kind == 'datasets')}{name}/commit/{done}"
        self.json({"success": True, "commitOid": done, "commitUrl": url, "pullRequestUrl": pull})

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        """GET or HEAD a file."""
        repo = self.repo(kind, name)
        if repo.gated:
            raise Refusal(403, "GatedRepo", "Access to this repository is restricted")
        sha = self.at(repo, revision)
        content = repo.commits[sha].get(path)
        if content is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        etag = hashlib.sha256(content).hexdigest() if is_large(path) else blob(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self.send(200, content, headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self.send(206, content[start:stop], headers)


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that listens on loopback for as long as the block runs."""
    with listening(Handler) as address:
        Handler.hub = Hub(address)
        yield Handler.hub

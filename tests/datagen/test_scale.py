"""Building on more than one machine, and into a store that is no folder: the same bytes as anywhere."""

from __future__ import annotations

import errno
import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datagen.common.errors import UserError
from datagen.common.files import sha256
from datagen.dataset.build import build, is_built
from datagen.dataset.config import DatasetConfig
from datagen.dataset.executors import process_executor, ray_executor
from datagen.dataset.manifest import MANIFEST
from tests.processes import invoke, refused

SIZE = 600


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Eight shards of 600 images: the executors are tested here, not the drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datagen.dataset.config.SHARD_SIZE", 100)
        yield


def config(size: int = SIZE) -> DatasetConfig:
    return DatasetConfig(dataset="messages", size=size, seed=4)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hash of every file, built by two processes of this machine."""
    out = tmp_path_factory.mktemp("here") / "messages"
    build(config(), out, workers=2)
    found: dict[str, str] = json.loads((out / MANIFEST).read_text())["files"]
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of a head that draws nothing and two nodes that draw, on this machine."""
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    try:
        yield cluster, nodes
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets and subprocesses that it leaves to the end
def test_a_node_that_is_killed_loses_and_doubles_no_shard(
    cluster: tuple[Any, list[Any]], here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines, nodes = cluster
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datagen").mkdir()  # the user's own package of that name, which no node imports
    (tmp_path / "datagen" / "__init__.py").write_text("raise ImportError(__file__)")
    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        list(ray_executor(machines.address)(os.stat, ["/nowhere"]))
    assert caught.value.errno == errno.ENOENT  # as it was raised on the node: a full disk there gets its sentence
    out = tmp_path / "messages"
    drawn: list[int] = []

    def draw(function: Any, items: list[Any]) -> Iterator[Any]:
        for done in ray_executor(machines.address)(function, items):
            if isinstance(done, int):  # images, and no hash
                drawn.append(done)
                if len(drawn) == 2:
                    machines.remove_node(nodes[0], allow_graceful=False)
            yield done

    build(config(), out, executor=draw)
    assert sum(drawn) == SIZE
    assert json.loads((out / MANIFEST).read_text())["files"] == here
    assert {str(path.relative_to(out)): sha256(path) for path in out.glob("*/*")} == here


def test_a_cluster_that_is_not_there_gets_one_sentence(tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", "127.0.0.1:99999", "nowhere:x"):
        words = ("build", "digits", "--size", "10", "--engine", "ray", "--ray-address", address, "--out", "d")
        assert f"no Ray cluster at {address}" in refused(invoke("datagen.cli", *words, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


# pyftpdlib is built on asyncore, which Python 3.12 has no more; there it brings its own.
@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The address of a real server that is no folder: FTP on loopback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import FTPHandler
        from pyftpdlib.servers import ThreadedFTPServer

    (tmp_path / "served").mkdir()
    authorizer = DummyAuthorizer()
    authorizer.add_user("user", "secret", str(tmp_path / "served"), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    with ThreadedFTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ftp://user:secret@127.0.0.1:{server.address[1]}/messages"
        finally:
            server.close_all()
            thread.join()


@pytest.mark.slow
def test_an_fsspec_address_gets_the_same_bytes_and_goes_on(store: str, here: dict[str, str], tmp_path: Path) -> None:
    from upath import UPath

    def stops(function: Any, items: list[Any]) -> Iterator[Any]:
        yield next(process_executor(1)(function, items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config(), UPath(store), executor=stops)
    served = tmp_path / "served" / "messages"
    half = next(served.glob("r1/*.parquet"))
    half.write_bytes(half.read_bytes()[:5000])  # an upload that was cut off
    assert not (served / MANIFEST).exists()
    assert list(served.glob("r1/*.parquet"))
    with pytest.raises(UserError, match="another recipe"):
        build(config(size=100), UPath(store), workers=1)
    assert str(build(config(), store, workers=2)) == str(UPath(store))
    assert is_built(UPath(store), config())
    assert {str(path.relative_to(served)): sha256(path) for path in served.glob("*/*")} == here
    assert sum(pq.read_metadata(path).num_rows for path in served.glob("raw/*")) == SIZE
    assert {path.name for path in served.iterdir()} == {"raw", "r1", "examples", "README.md", MANIFEST}


def test_a_shard_that_is_lost_makes_no_dataset(tmp_path: Path) -> None:
    def forgetful(function: Any, items: list[Any]) -> Iterator[Any]:
        yield from process_executor(1)(function, items[1:])

    with pytest.raises(UserError, match="1 shards were drawn and are not in"):
        build(config(size=20), tmp_path / "messages", executor=forgetful)
    assert not (tmp_path / "messages").exists()
    build(config(size=20), tmp_path / "messages", workers=1)


@pytest.mark.slow
def test_a_store_that_refuses_gets_one_sentence_without_the_password(store: str, tmp_path: Path) -> None:
    wrong = store.replace("secret", "hunter2")
    sentence = refused(invoke("datagen.cli", "build", "digits", "--size", "10", "--out", wrong, cwd=tmp_path))
    assert "can't write to ftp://127.0.0.1" in sentence
    assert "hunter2" not in sentence
    sentence = refused(invoke("datagen.cli", "verify", wrong, cwd=tmp_path))
    assert "can't read ftp://127.0.0.1" in sentence
    assert "hunter2" not in sentence
    sentence = refused(invoke("datagen.cli", "verify", store, cwd=tmp_path))
    assert "there is no dataset ftp://" in sentence


@pytest.mark.parametrize("command", ["push", "preview"])
def test_what_needs_a_folder_says_so_of_a_store(command: str, tmp_path: Path) -> None:
    done = invoke("datagen.cli", command, "memory://user:secret@bucket/digits", cwd=tmp_path)
    assert refused(done) == (
        "r1vlm-data: memory://bucket/digits is no folder on this machine: copy it into one, and name that"
    )


def test_a_protocol_that_nobody_speaks_gets_one_sentence(tmp_path: Path) -> None:
    done = invoke("datagen.cli", "build", "digits", "--size", "10", "--out", "nowhere://bucket/digits", cwd=tmp_path)
    assert "can't reach nowhere://bucket/digits" in refused(done)

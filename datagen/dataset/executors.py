"""Where shards are drawn and checked: by processes on this machine, or on a Ray cluster. The bytes are the same.

The code of a dataset that is not built in goes along: its file as it was read here, or the name of its package.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from datagen.common.errors import UserError, require_extra
from datagen.common.versions import dataset_versions, version_mismatches
from datagen.registry import loaded_code, receive_code
from datagen.registry.code import Code

Executor = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Calls a function with each of some items, as `map` does; gives what it returns, in any order, as each is done."""


def available_cores() -> int:
    """The cores that are ours: a container or Slurm may have given a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_executor(workers: int, modules: Sequence[str] = ("datagen.dataset.shards",)) -> Executor:
    """Worker processes on this machine, forked by one that imports `modules` for all, and begins with it now."""
    forkserver.set_forkserver_preload(list(modules))
    before = dict(os.environ)
    # Python 3.11 to 3.13 have it import from elsewhere than this process does (CPython #117378).
    os.environ |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "PYTHONSAFEPATH": "1"}
    try:
        forkserver.ensure_running()
    finally:
        _set_environment(before)
    return partial(_in_processes, workers)


def _in_processes(workers: int, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    context, count = multiprocessing.get_context("forkserver"), max(1, min(workers, len(items)))
    code = loaded_code()
    with ProcessPoolExecutor(count, context, initializer=_initialize_worker, initargs=(dict(os.environ),)) as pool:
        try:
            for future in as_completed([pool.submit(_call_with, code, function, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed (too little memory?): run the same command again, it goes on; in a script "
                'of your own, call this under  if __name__ == "__main__":'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _call_with(code: list[Code], function: Callable[[Any], Any], item: Any) -> Any:
    """Call a function in a process that has the datasets of the one that asks."""
    receive_code(code)
    return function(item)


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _initialize_worker(environment: Mapping[str, str]) -> None:
    """Take the parent's environment of now, not that of the first build; and end when it is gone, however it ended."""
    _set_environment(environment)
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a worker process may call this")
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def ray_executor(address: str) -> Executor:
    """A Ray cluster that is running at `address`; every node needs r1vlm, and the folder must be one that all share.

    Raises:
        UserError: where nothing answers there, before anything is written.
    """
    require_extra("ray", "ray")
    _connect(address)
    return partial(_on_ray, address)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        if host and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        with contextlib.chdir(sys.prefix):  # Ray's workers import from the driver's folder before all others
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, ValueError, OverflowError) as error:  # OverflowError: a port above 65535
        raise UserError(f"there is no Ray cluster at {address}: start one, and name it with --ray-address") from error


def _on_ray(address: str, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    import ray

    if not ray.is_initialized():  # it is, the first time
        _connect(address)
    # A shard is written under a temporary name and renamed: one that is drawn again by another node has the same bytes.
    call, versions, code = ray.remote(_call).options(max_retries=-1), dataset_versions(), loaded_code()
    pending = [call.remote(function, versions, code, item) for item in items]
    try:
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what was raised on the node, without Ray's own text around it
    finally:
        ray.shutdown()


def _call(function: Callable[[Any], Any], versions: Mapping[str, str], code: list[Code], item: Any) -> Any:
    """Call a function on a node of Ray, which takes no partial function; `versions` and `code` are the driver's."""
    if mismatches := version_mismatches(versions):
        raise UserError(
            f"the node {socket.gethostname()} would draw other bytes ({', '.join(mismatches)}): install the same "
            "versions on all nodes"
        )
    return _call_with(code, function, item)

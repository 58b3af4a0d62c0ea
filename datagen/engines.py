"""Where shards are drawn and checked: by processes on this machine, or on a Ray cluster. The bytes are the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from datagen.errors import UserError, need

SAFE = "PYTHONSAFEPATH"
Engine = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Calls a function with each of some items, as `map` does; gives what it returns, in any order, as each is done."""


def processes(workers: int) -> Engine:
    """Worker processes on this machine, forked by one that imports for all of them, and begins with it now."""
    forkserver.set_forkserver_preload(["datagen.rows"])
    before = os.environ.get(SAFE)
    os.environ[SAFE] = "1"  # else Python 3.11 to 3.13 look for it in the current folder first
    forkserver.ensure_running()
    if before is None:
        del os.environ[SAFE]
    return partial(_in_processes, workers)


def _in_processes(workers: int, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(max(1, min(workers, len(items))), context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            message = "a worker process was killed (too little memory?): run the same command again, it goes on"
            raise UserError(message) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is gone, also when that was killed and could say nothing."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a worker process may call this")
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def ray_cluster(address: str) -> Engine:
    """A Ray cluster that is running at `address`; every node needs r1vlm, and the folder must be one that all share."""
    need("ray", "ray")
    return partial(_on_ray, address)


def _on_ray(address: str, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    import ray

    try:
        host, _, port = address.rpartition(":")
        if host and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, ValueError) as error:
        raise UserError(f"there is no Ray cluster at {address}: start one, and name it with --ray-address") from error
    # A shard is written under a temporary name and renamed: one that is drawn again by another node has the same bytes.
    call = ray.remote(_call).options(max_retries=-1)
    pending = [call.remote(function, item) for item in items]
    try:
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)
    finally:
        ray.shutdown()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)  # for Ray, which takes no partial function

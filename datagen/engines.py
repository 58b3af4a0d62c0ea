"""Where shards are drawn: in worker processes on this machine, or on a Ray cluster. The bytes are the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.errors import UserError, need
from datagen.recipe import Recipe, Shard
from datagen.rows import draw_shard

if TYPE_CHECKING:
    import pyarrow as pa

Engine = Callable[[Path, Recipe, list[Shard], "Mapping[str, pa.Schema]"], Iterator[int]]
"""Draws shards into a folder, in any order; gives the number of images of each as it is done."""


def processes(workers: int) -> Engine:
    """Worker processes on this machine."""
    return partial(_in_processes, workers)


def _in_processes(
    workers: int, folder: Path, recipe: Recipe, shards: list[Shard], schema: Mapping[str, pa.Schema]
) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(shards))), context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(draw_shard, folder, recipe, shard, schema) for shard in shards]
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


def _on_ray(
    address: str, folder: Path, recipe: Recipe, shards: list[Shard], schema: Mapping[str, pa.Schema]
) -> Iterator[int]:
    import ray

    try:
        host, _, port = address.rpartition(":")
        if host and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, ValueError) as error:
        raise UserError(f"there is no Ray cluster at {address}: start one, and name it with --ray-address") from error
    # A shard is written under a temporary name and renamed: one that is drawn again by another node has the same bytes.
    draw = ray.remote(draw_shard).options(max_retries=-1)
    pending = [draw.remote(folder, recipe, shard, schema) for shard in shards]
    try:
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)
    finally:
        ray.shutdown()

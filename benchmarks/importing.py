"""Speed and memory of `r1vlm-data import`, beside copying the same files: `python -m benchmarks.importing`.

JPEG pictures of about 100 kB in a folder with a CSV of `SIZE` rows (and `FEW`, for the memory). Copying is
`shutil.copytree` of the folder, in one process, and `os.sync` behind it; importing has the same behind it. Both are
measured in turn, `ROUNDS` times, in one run on the machine it is on. Decoding is what an import can't do without: every
picture once by Pillow, in as many processes, and nothing else. Last, what each part of an import takes of one process.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.datagen import memory
from datagen.dataset.importing.images import check_image, hash_pixels, perceptual_hash

SIZE = int(os.environ.get("SIZE", "10000"))
FEW = 2000  # rows: four chunks, so that all workers have some
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def picture(number: int) -> bytes:
    """A JPEG of about 100 kB: smooth shapes with the noise of a sensor, 800 x 600 pixels."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((800, 600), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + rng.normal(0, 7, (600, 800, 1)).astype(np.int16)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_source(folder: Path, size: int) -> float:
    """Write a folder of pictures with a table; returns the mean bytes of a picture."""
    (folder / "photos").mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "answer"])
        writer.writerows([f"photos/{number}.jpg", number % 7] for number in range(size))
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(partial(write_picture, folder / "photos"), range(size), chunksize=100)) / size


def write_picture(folder: Path, number: int) -> int:
    """Write a picture; returns its bytes."""
    return (folder / f"{number}.jpg").write_bytes(picture(number))


def copying(source: Path, target: Path) -> float:
    """Seconds that copying takes."""
    started = time.perf_counter()
    shutil.copytree(source, target)
    os.sync()
    return time.perf_counter() - started


def decode(path: Path) -> None:
    """Decode a picture."""
    with Image.open(path) as image:
        image.load()


def decoding(source: Path, workers: int) -> float:
    """Seconds that decoding every picture takes, in so many processes that are there already."""
    paths = list((source / "photos").iterdir())
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(decode, paths[:workers]))
        started = time.perf_counter()
        list(pool.map(decode, paths, chunksize=100))
        return time.perf_counter() - started


def importing(source: Path, target: Path, workers: int) -> tuple[float, float]:
    """Seconds that an import takes, and MiB at the peak of it and all its workers."""
    words = ["--question", "Which number is it?", "--answer", "answer", "--judge", "integer", "--workers", str(workers)]
    command = [sys.executable, "-m", "datagen.cli", "import", str(source / "table.csv"), *words, "--out", str(target)]
    started, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as done:
        while done.poll() is None:
            most = max(most, memory(done.pid))
            time.sleep(0.2)
        if done.returncode:
            raise RuntimeError(done.stderr.read().decode() if done.stderr else "")
    os.sync()
    return time.perf_counter() - started, most / 2**20


def parts(source: Path, count: int = 300) -> dict[str, float]:
    """Milliseconds an image that the parts of an import take in one process."""
    paths = sorted((source / "photos").iterdir())[:count]
    contents = [path.read_bytes() for path in paths]
    images = [Image.open(io.BytesIO(content)) for content in contents]
    steps: dict[str, Callable[[], object]] = {
        "read": lambda: [path.read_bytes() for path in paths],
        "SHA-256 of the bytes": lambda: [hashlib.sha256(content).digest() for content in contents],
        "decode": lambda: [image.load() for image in images],
        "hash of the pixels": lambda: list(map(hash_pixels, images)),
        "perceptual hash": lambda: list(map(perceptual_hash, images)),
        "all of the check": lambda: list(map(check_image, contents)),
    }
    return {name: 1000 * seconds(step) / count for name, step in steps.items()}


def seconds(step: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main() -> None:
    """Print the ratios, and the memory at a few rows and at all."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mean = write_source(folder / "all", SIZE)
        write_source(folder / "few", FEW)
        print(f"{SIZE} JPEGs of {mean / 1000:.0f} kB, {ROUNDS} rounds")
        found: dict[int, list[float]] = {1: [], cores: []}
        peaks = []
        for _ in range(ROUNDS):
            copied = copying(folder / "all", folder / "copy")
            shutil.rmtree(folder / "copy")
            for workers in found:
                floor = decoding(folder / "all", workers)
                print(f"  copied in {copied:.1f} s, decoded by {workers} in {floor:.1f} s: {floor / copied:.1f} times")
            for workers, ratios in found.items():
                seconds, peak = importing(folder / "all", folder / "out", workers)
                shutil.rmtree(folder / "out")
                ratios.append(seconds / copied)
                peaks.append(peak)
                print(
                    f"  copied in {copied:.1f} s, imported by {workers} in {seconds:.1f} s, {peak:.0f} MiB", flush=True
                )
        for workers, ratios in found.items():
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{workers} workers: {middle:.1f} times the time of copying ({low:.1f} to {high:.1f})")
        _, small = importing(folder / "few", folder / "out", cores)
        print("Milliseconds an image:", ", ".join(f"{name} {took:.2f}" for name, took in parts(folder / "all").items()))
        print(f"Peak memory: {small:.0f} MiB at {FEW} rows, {max(peaks):.0f} MiB at {SIZE}.")


if __name__ == "__main__":
    main()

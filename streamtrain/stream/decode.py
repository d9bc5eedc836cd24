"""One member's bytes to a value. Nothing here executes what it reads: no pickle in any form (promise 9).

Text, numbers, JSON and arrays by WebDataset's own decoders, images by Pillow. Images come as uint8 of
shape (height, width) where they are grey and (height, width, 3) otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
HARMLESS = ("txt", "text", "cls", "id", "json", "npy")
"""WebDataset's decoders that we take over; its others unpickle, or need what is not installed."""


def decoder_of(extension: str) -> Callable[[bytes], Any]:
    """The decoder for members with this extension; bytes stay bytes where there is none."""
    kind = extension.rpartition(".")[2]
    if kind in IMAGES:
        return decode_image
    if kind in HARMLESS:
        from webdataset.autodecode import decoders  # late: it imports torch

        decode: Callable[[bytes], Any] = decoders[kind]
        return decode
    return bytes


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Pixels of a JPEG, PNG or WebP file.

    Raises:
        OSError: not an image that Pillow knows, or cut short.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert(_plain_mode(image.mode)))


def _plain_mode(mode: str) -> str:
    return "L" if mode in ("1", "LA", "I", "I;16", "F") else "RGB"

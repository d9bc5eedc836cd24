"""One member's bytes to a value. Nothing here executes what it reads: no pickle in any form (promise 9).

Text, numbers, JSON and msgpack by WebDataset's own decoders. JPEG by simplejpeg, plain PNG by
OpenCV, 1.8 and 5 times as fast as Pillow, which decodes every other kind. Images come as uint8 of shape
(height, width) where they are grey and (height, width, 3) otherwise, without alpha.

What a few bytes claim to be is bounded before memory is taken for it: images by the shape in the manifest, and all
by `MOST_PIXELS`; arrays by the bytes that are there.
"""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.codec import FORMATS, read_npy

IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
HARMLESS = ("txt", "text", "transcript", "cls", "id", "json", "jsn", "mp", "msg")
"""WebDataset's decoders that we take over; its others unpickle, or need what is not installed."""
MOST_PIXELS = 178_956_970
"""Pillow's bound on an image, above which it may be a decompression bomb; held for all decoders."""

Image = NDArray[np.uint8]
Size = tuple[int, int]
Decoder = Callable[[NDArray[np.uint8], "Image | None"], Any]
"""From a member's bytes to a value; an image may be decoded into the array that is given, if it has its shape."""


def decoder_of(extension: str, image_size: Size | None = None, shape: tuple[int, ...] | None = None) -> Decoder:
    """The decoder for members with this extension; bytes stay bytes where there is none.

    Args:
        image_size: height and width that images are brought to.
        shape: of every example, where the manifest has one: a larger image is refused.
    """
    kind = extension.rpartition(".")[2]
    if kind in IMAGES:
        most = MOST_PIXELS if shape is None else min(MOST_PIXELS, math.prod(shape[:2]))
        decode = functools.partial(decode_jpeg if kind in ("jpg", "jpeg") else decode_image, most=most)
        if image_size is None:
            return decode
        return lambda data, _: resized(decode(data, None, image_size), image_size)
    if kind == "npy":
        return lambda data, _: read_npy(data.tobytes())
    if kind in HARMLESS:
        return lambda data, _: _webdatasets(kind)(data.tobytes())
    return lambda data, _: data.tobytes()


@functools.cache
def _webdatasets(kind: str) -> Callable[[bytes], Any]:
    from webdataset.autodecode import decoders  # late: it imports torch, 130 MB that arrays do not need

    decode: Callable[[bytes], Any] = decoders[kind]
    return decode


def decode_jpeg(data: Image, into: Image | None = None, at_least: Size | None = None, most: int = MOST_PIXELS) -> Image:
    """Pixels of a JPEG file.

    Args:
        data: the file, uint8 of shape (bytes,).
        into: decoded into, if it has the image's shape.
        at_least: height and width; a much larger image is decoded at ⅛, ¼ or ½ of its size while it is no smaller.
        most: pixels that it may have.

    Raises:
        OSError, ValueError: not a JPEG image, cut short, or too large.
    """
    import simplejpeg

    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    _check_pixels(height, width, most)
    if space not in ("Gray", "YCbCr", "RGB"):
        return _by_pillow(data, most)
    shape = (height, width, 1) if space == "Gray" else (height, width, 3)
    least = at_least or (0, 0)
    buffer = None if into is None or at_least or into.size != np.prod(shape) else into
    image: Image = simplejpeg.decode_jpeg(
        data, "GRAY" if space == "Gray" else "RGB", min_height=least[0], min_width=least[1], buffer=buffer
    )
    return image[:, :, 0] if space == "Gray" else image


def decode_image(
    data: Image,
    into: Image | None = None,  # noqa: ARG001  # a decoder's form
    at_least: Size | None = None,  # noqa: ARG001
    most: int = MOST_PIXELS,
) -> Image:
    """Pixels of a PNG or WebP file, or of another of `FORMATS`, whatever the extension says.

    Raises:
        OSError, ValueError: not an image, cut short, or too large.
    """
    head = data[:32].tobytes()
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 32:
        width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
        _check_pixels(height, width, most)
        if depth == 8 and colour in (0, 2):
            image = _opencv().imdecode(data, 0 if colour == 0 else _opencv().IMREAD_COLOR_RGB)
            if image is not None:
                return np.asarray(image, np.uint8)
    return _by_pillow(data, most)  # of damaged ones it tells what is wrong


def resized(image: Image, size: Size) -> Image:
    """The image at this height and width, by the mean over areas where it shrinks and linearly where it grows."""
    if image.shape[:2] == size:
        return image
    cv2 = _opencv()
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    scaled = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled, np.uint8)


@functools.cache
def _opencv() -> Any:
    import cv2

    cv2.setNumThreads(1)  # the reader spreads images over its own threads
    return cv2


def _by_pillow(data: Image, most: int) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data.tobytes()), formats=FORMATS) as image:
            _check_pixels(image.height, image.width, most)
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert(_plain_mode(image.mode)))
    except Pillow.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _check_pixels(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise ValueError(f"{width}×{height} pixels, more than {most:,}")


def _plain_mode(mode: str) -> str:
    return "L" if mode in ("1", "LA", "I", "I;16", "F") else "RGB"

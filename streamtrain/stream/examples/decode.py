"""One member's bytes to a value. Nothing here executes what it reads: no pickle in any form (promise 9).

Text, numbers, JSON and msgpack by WebDataset's own decoders; images by `streamtrain.images`, by their content.

What a few bytes claim to be is bounded before memory is taken for it: images by the shape in the manifest, and all
by `MOST_PIXELS`; arrays by the bytes that are there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.images.conversion import ImageForm, image_in
from streamtrain.images.headers import MOST_PIXELS
from streamtrain.images.kinds import Image, is_image
from streamtrain.shards.codec import read_npy

HARMLESS = ("txt", "text", "transcript", "cls", "id", "json", "jsn", "mp", "msg")
"""WebDataset's decoders that we take over; its others unpickle, or need what is not installed."""

Decoder = Callable[[NDArray[np.uint8], "Image | None"], Any]
"""From a member's bytes to a value; an image may be decoded into the array that is given, if it has its shape."""


def decoder_of(extension: str, form: ImageForm | None = None, shape: tuple[int, ...] | None = None) -> Decoder:
    """The decoder for members with this extension; bytes stay bytes where there is none.

    Args:
        form: what images are brought to.
        shape: of every example, where the manifest has one: a larger image is refused.
    """
    kind = extension.rpartition(".")[2]
    wanted = form or ImageForm()
    if is_image(extension):
        most = MOST_PIXELS if shape is None else min(MOST_PIXELS, math.prod(shape[:2]))
        return lambda data, into: image_in(data, wanted, into, most)
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

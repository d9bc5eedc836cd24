"""An image looked at whole, once, at packing: what nobody can read is found then, and not in the middle of a run.

Costs a decoding, of JPEG at an eighth of its size, which takes about 0.4 of the time.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
import zlib
from collections import Counter

import numpy as np

from streamtrain.images.headers import JPEG, PNG, Header, look
from streamtrain.images.kinds import Image, kind_of
from streamtrain.images.pixels import OddJpegError, by_pillow, by_simplejpeg, decode_image, without_idle_alpha

ODD_JPEG = "JPEG data with stray or damaged bytes, as Pillow reads them"


def checked(data: bytes) -> tuple[Header, dict[str, int]]:
    """What a readable image is, and how often each thing is to be said of it: oddities, and libraries' warnings.

    Raises:
        OSError, ValueError: no reader here can read it, or only with a loss.
    """
    notes: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        header = look(data)
        image = _decoded(data, notes)
    notes.update({_in_general(str(warning.message)) for warning in caught})  # each once an image
    return dataclasses.replace(header, kind=kind_of(image)), dict(notes)


def form_of_image(data: bytes) -> tuple[str, tuple[int, ...]]:
    """Type and shape of the array that an image becomes; decodes it only where alpha may be opaque throughout.

    Raises:
        OSError, ValueError: no reader here can read it.
    """
    header = look(data)
    if not header.kind.has_alpha:
        return header.kind.dtype, header.shape
    image = decode_image(np.frombuffer(data, np.uint8))
    return image.dtype.name, image.shape


def _decoded(data: bytes, notes: Counter[str]) -> Image:
    content = np.frombuffer(data, np.uint8)
    if data.startswith(JPEG):
        try:
            found = by_simplejpeg(content, at_least=(1, 1))
        except OddJpegError:
            notes[ODD_JPEG] += 1
            found = None
        return by_pillow(content) if found is None else found
    if data.startswith(PNG) and not _sums_are_right(data):
        return without_idle_alpha(by_pillow(content))  # libpng would print a line of its own for each
    return decode_image(content)


def _sums_are_right(data: bytes) -> bool:
    """Whether the checksums of a PNG's chunks are right, up to its end."""
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        stop = at + 8 + length
        if zlib.crc32(data[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = stop + 4
    return False


def _in_general(message: str) -> str:
    """A warning without its numbers, so that equal ones count together."""
    return re.sub(r"\d+", "…", message.strip().splitlines()[0] if message.strip() else "a warning without words")

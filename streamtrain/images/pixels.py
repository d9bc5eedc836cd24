"""An image file's bytes to its pixels, as stored: of the kind that `kinds` says, upright, whatever its name.

JPEG by simplejpeg and plain PNG by OpenCV, 1.8 and 5 times as fast as Pillow, which decodes every other kind and has
the last word on what the two refuse. Colour of 16 bits by OpenCV, held to Pillow's high bytes.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.images.headers import (
    JPEG,
    MOST_PIXELS,
    PNG,
    SIXTEEN,
    check_pixels,
    jpeg_orientation,
    kind_in,
    opened,
    orientation_of,
)
from streamtrain.images.kinds import Image, Kind

Size = tuple[int, int]
Bytes = NDArray[np.uint8]

_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_CHANGES = (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG that may hold transparency or an orientation; texts may hold EXIF or XMP."""


def decode_image(
    data: Bytes, into: Image | None = None, at_least: Size | None = None, most: int = MOST_PIXELS, *, rgb: bool = False
) -> Image:
    """Pixels of an image file.

    Args:
        data: the file, uint8 of shape (bytes,).
        into: decoded into where that saves a copy, if it has the image's shape and type.
        at_least: height and width; a much larger JPEG is decoded at ⅛, ¼ or ½ of its size while it is no smaller.
        most: pixels that it may have.
        rgb: give a grey JPEG as rgb, which costs nothing.

    Raises:
        OSError, ValueError: not an image, cut short, too large, or of a kind that would lose something.
    """
    head = data[:32].tobytes()
    if head.startswith(JPEG):
        found = _by_simplejpeg(data, into, at_least, most, rgb=rgb)
    elif head.startswith(PNG) and len(head) == 32:
        found = _by_opencv(data, head, most)
    else:
        found = None
    return by_pillow(data, most) if found is None else found


def by_pillow(data: Bytes, most: int = MOST_PIXELS) -> Image:
    """The same by Pillow, for every encoding.

    Raises:
        OSError, ValueError: as of `decode_image`.
    """
    from PIL import ImageOps

    raw = data.tobytes()
    with opened(raw, most) as image:
        kind = kind_in(image, raw)
        orientation = orientation_of(image)
        mode = image.mode
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except (TypeError, KeyError, IndexError) as error:  # of damaged files some plugins let through anything
            raise ValueError(str(error)) from None
        if kind.dtype == "uint16" and mode not in SIXTEEN:
            return _deep(data, np.asarray(image), kind, orientation)
        return _array(image, kind)


def turned(image: Image, orientation: int) -> Image:
    """An image turned upright by EXIF's orientation, 1 to 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _by_simplejpeg(data: Bytes, into: Image | None, at_least: Size | None, most: int, *, rgb: bool) -> Image | None:
    """``None`` where Pillow is to decide: of other colours than grey and YCbCr, or not quite as it should be."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_pixels(height, width, most)
    orientation = jpeg_orientation(data.data)
    if space not in ("Gray", "YCbCr", "RGB") or orientation is None:
        return None
    grey = space == "Gray" and not rgb
    least = at_least or (0, 0)
    if orientation >= 5:
        least = least[::-1]
    fits = into is not None and into.dtype == np.uint8 and into.size == height * width * (1 if grey else 3)
    buffer = into if fits and not at_least and orientation == 1 else None
    try:
        image: Image = simplejpeg.decode_jpeg(
            data, "GRAY" if grey else "RGB", min_height=least[0], min_width=least[1], buffer=buffer
        )
    except ValueError:  # stray bytes, which viewers pass over, or the file's end, of which Pillow tells
        return None
    return turned(image[:, :, 0] if grey else image, orientation) if orientation > 1 or grey else image


def _by_opencv(data: Bytes, head: bytes, most: int) -> Image | None:
    """``None`` where Pillow is to decide: palettes, transparency, levels of less than 8 bits, orientation, damage."""
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    check_pixels(height, width, most)
    if depth not in (8, 16) or colour not in (0, 2, 4, 6) or (depth == 16 and colour == 0):
        return None
    plain = plain_png(data)
    if plain is None:
        return None
    flags = opencv().IMREAD_UNCHANGED | opencv().IMREAD_IGNORE_ORIENTATION
    if depth == 8 and colour in (0, 2):
        flags = 0 if colour == 0 else opencv().IMREAD_COLOR_RGB
    image = opencv().imdecode(plain, flags)
    if image is None or image.dtype != (np.uint16 if depth == 16 else np.uint8):
        return None
    if depth == 8 and colour in (0, 2):
        return np.asarray(image)
    channels = {2: [2, 1, 0], 4: [0, 3], 6: [2, 1, 0, 3]}[colour]
    return np.ascontiguousarray(image[:, :, channels]) if image.ndim == 3 else None


def plain_png(data: Bytes) -> Bytes | None:
    """A PNG file without what its decoder would only warn of; ``None`` where something else may change its pixels."""
    at, end, kept, size = 8, len(data), [], len(data)
    while at + 12 <= end:
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _CHANGES or at + 12 + length > end or (name[:1].isupper() and name not in _NEEDED):
            return None
        if name in _NEEDED:
            kept.append((at, at + 12 + length))
        at += 12 + length
        if name == b"IEND":
            size = sum(stop - start for start, stop in kept)
            if size + 8 == end:
                return data
            return np.concatenate([data[:8], *(data[start:stop] for start, stop in kept)])
    return None  # it ends early


def _array(image: Any, kind: Kind) -> Image:
    """A decoded image of Pillow's as the kind's array."""
    if kind.dtype == "uint16":
        levels = np.asarray(image).astype(np.uint16)
        if not kind.has_alpha:
            return levels
        opaque = np.where(levels == image.info["transparency"], 0, 65535).astype(np.uint16)
        return np.stack([levels, opaque], axis=-1)
    if kind.dtype != "uint8":
        levels = np.asarray(image)
        return levels.view(np.uint32) if kind.dtype == "uint32" else levels.astype(kind.dtype)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[kind.channels]
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _deep(data: Bytes, high: Image, kind: Kind, orientation: int) -> Image:
    """Colour of 16 bits, by OpenCV; ``high`` is what Pillow makes of it, the high bytes.

    Raises:
        ValueError: the two do not read the same.
    """
    flags = opencv().IMREAD_UNCHANGED | opencv().IMREAD_IGNORE_ORIENTATION
    image = opencv().imdecode(data, flags)
    if image is not None and image.dtype == np.uint16 and image.ndim == 3 and image.shape[2] >= 3:
        alpha = image.shape[2] == 4
        levels = image[:, :, {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[kind.channels] if alpha else [2, 1, 0]]
        for upright in (turned(levels, orientation), np.ascontiguousarray(levels)):
            if upright.shape[2] == kind.channels and _same_high_bytes(upright, high, kind):
                return upright
    raise ValueError(f"{kind.name}, which become 8 bits here in this form; save it as PNG")


def _same_high_bytes(levels: Image, high: Image, kind: Kind) -> bool:
    if kind.channels == 2 and high.ndim == 3 and high.shape[2] == 4:
        high = high[:, :, [0, 3]]
    elif kind.channels == 3:
        high = high[:, :, :3]
    return levels.shape == high.shape and bool((np.abs((levels >> 8).astype(np.int16) - high) <= 1).all())


@functools.cache
def opencv() -> Any:
    """OpenCV, on one thread: the reader spreads images over its own threads."""
    import cv2

    cv2.setNumThreads(1)
    return cv2

"""An image file's bytes to its pixels, as stored: of the kind that `kinds` says, upright, whatever its name.

JPEG by simplejpeg and plain PNG by OpenCV, 1.8 and 5 times as fast as Pillow, which decodes every other kind and has
the last word on what the two refuse. Colour of 16 bits by OpenCV, held to Pillow's high bytes.

An alpha channel that is opaque throughout says nothing and is left out.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import one_line
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
    png_chunks,
    turns_png,
)
from streamtrain.images.kinds import Image, Kind

Size = tuple[int, int]
Bytes = NDArray[np.uint8]

AFTER_HEADER = 33
"""Where the second chunk of a PNG begins."""
HEAD = AFTER_HEADER + 8
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


class OddJpegError(ValueError):
    """A JPEG with stray bytes, a damaged stretch, or an early end."""


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
    head = data[:HEAD].tobytes()
    found: Image | None = None
    if head.startswith(JPEG):
        with contextlib.suppress(OddJpegError):
            found = by_simplejpeg(data, into, at_least, most, rgb=rgb)
    elif head.startswith(PNG) and len(head) == HEAD:
        found = _by_opencv(data, head, most)
    return without_idle_alpha(by_pillow(data, most) if found is None else found)


def by_pillow(data: Bytes, most: int = MOST_PIXELS) -> Image:
    """The same by Pillow, for every encoding.

    Raises:
        OSError, ValueError: as of `decode_image`.
    """
    raw = data.tobytes()
    with opened(raw, most) as image:
        kind = kind_in(image, raw)
        mode = image.mode
        in_tiff = image.format == "TIFF"
        turned_by_pillow = orientation_of(image, raw) if in_tiff else 1
        try:
            image.load()
        except (TypeError, KeyError, IndexError) as error:  # of damaged files some plugins let through anything
            raise ValueError(one_line(error)) from None
        orientation = 1 if in_tiff else orientation_of(image, raw)
        if kind.dtype == "uint16" and mode not in SIXTEEN:
            levels = _deep(data, np.asarray(image), kind, turned_by_pillow)
        else:
            levels = _array(image, kind)
    return turned(levels, orientation) if orientation > 1 else levels


def without_idle_alpha(image: Image) -> Image:
    """The image without an alpha channel that is opaque throughout, which says nothing."""
    if image.ndim == 2 or image.shape[2] not in (2, 4) or (image[:, :, -1] != np.iinfo(image.dtype).max).any():
        return image
    return np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 2 else image[:, :, :3])


def turned(image: Image, orientation: int) -> Image:
    """An image turned upright by EXIF's orientation, 1 to 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def by_simplejpeg(
    data: Bytes,
    into: Image | None = None,
    at_least: Size | None = None,
    most: int = MOST_PIXELS,
    *,
    rgb: bool = False,
) -> Image | None:
    """``None`` where Pillow is to decide, for the image is of other colours than grey and YCbCr.

    Raises:
        OddJpegError: Pillow is to decide too; viewers pass over stray bytes.
    """
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise OddJpegError(str(error)) from None
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
    except ValueError as error:
        raise OddJpegError(str(error)) from None
    return turned(image[:, :, 0] if grey else image, orientation) if orientation > 1 or grey else image


def _by_opencv(data: Bytes, head: bytes, most: int) -> Image | None:
    """``None`` where Pillow is to decide: palettes, transparency, levels of less than 8 bits, orientation, damage."""
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    check_pixels(height, width, most)
    if depth not in (8, 16) or colour not in (0, 2, 4, 6) or (depth == 16 and colour == 0):
        return None
    length, name = struct.unpack_from(">I4s", head, AFTER_HEADER)
    alone = name == b"IDAT" and AFTER_HEADER + 12 + length + 12 == len(data)  # the usual small file, told at a glance
    plain = data if alone else plain_png(data)
    if plain is None:
        return None
    cv2 = opencv()
    if depth == 8 and colour == 0:
        flags = cv2.IMREAD_GRAYSCALE
    elif depth == 8 and colour == 2:
        flags = cv2.IMREAD_COLOR_RGB
    else:
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(plain, flags)
    if image is None or image.dtype != (np.uint16 if depth == 16 else np.uint8):
        return None
    if depth == 8 and colour in (0, 2):
        return np.asarray(image)
    channels = {2: [2, 1, 0], 4: [0, 3], 6: [2, 1, 0, 3]}[colour]
    return np.ascontiguousarray(image[:, :, channels]) if image.ndim == 3 else None


def plain_png(data: Bytes) -> Bytes | None:
    """A PNG file without what its decoder would only warn of; ``None`` where something else may change its pixels."""
    kept = []
    content = data.data
    for name, start, length in png_chunks(content):
        if name == b"tRNS" or turns_png(content, name, start) or (name[:1].isupper() and name not in _NEEDED):
            return None
        if name in _NEEDED:
            kept.append((start - 8, start + length + 4))
        if name == b"IEND":
            if len(PNG) + sum(stop - begin for begin, stop in kept) == len(data):
                return data
            return np.concatenate([data[: len(PNG)], *(data[begin:stop] for begin, stop in kept)])
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
    shared = min(kind.channels, high.shape[2])  # RGBX has padding, and a transparent colour is no channel yet
    levels = levels[:, :, :shared]
    high = high[:, :, :shared]
    return levels.shape == high.shape and bool((np.abs((levels >> 8).astype(np.int16) - high) <= 1).all())


@functools.cache
def opencv() -> Any:
    """OpenCV, on one thread: the reader spreads images over its own threads."""
    import cv2

    cv2.setNumThreads(1)
    return cv2

"""An image's header: what it will become, at the cost of reading no pixel.

Orientation: the tag of EXIF (or XMP) that says how a picture is to be turned is followed for every encoding, so that
an image is as its viewers show it; height and width are those after turning.
"""

from __future__ import annotations

import functools
import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamtrain.images.kinds import EXTENSIONS, FORMATS, MIXED, Kind

if TYPE_CHECKING:
    from PIL import ImageFile

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
USUAL = (b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""How GIF, BMP, TIFF and JPEG 2000 begin."""
MOST_PIXELS = 178_956_970
"""Pillow's bound on an image, above which it may be a decompression bomb; held for all decoders."""

SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


@dataclass(frozen=True)
class Header:
    """What an image is.

    Attributes:
        encoding: its extension, e.g. ``jpg``, by the content.
        kind: of the array that it is decoded to.
        height, width: of that array.
        orientation: of EXIF; 1 where it stands upright.
        frames: whether there are more than the first, which is the one that is read.
    """

    encoding: str
    kind: Kind
    height: int
    width: int
    orientation: int
    frames: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it is decoded to."""
        return self.kind.shape(self.height, self.width)


def look(data: bytes) -> Header:
    """The header of an image file.

    Raises:
        OSError, ValueError: no image that is read here, too large, or of a kind that would lose something.
    """
    with opened(data) as image:
        orientation = orientation_of(image, data)
        height, width = image.height, image.width
        if orientation >= 5 and image.format != "TIFF":  # Pillow has turned the size of a TIFF already
            height, width = width, height
        encoding = EXTENSIONS.get(image.format or "", (image.format or MIXED).lower())
        return Header(encoding, kind_in(image, data), height, width, orientation, _more_frames(image))


@contextmanager
def opened(data: bytes, most: int = MOST_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """The image, opened by Pillow and not yet decoded.

    Raises:
        ValueError: none that is read here, or of more than ``most`` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            check_pixels(image.height, image.width, most)
            yield image
    except UnidentifiedImageError:
        raise ValueError("no image that Pillow knows") from None  # its own message holds an address in memory
    except (Image.DecompressionBombError, SyntaxError, struct.error, EOFError) as error:
        raise ValueError(str(error) or "an end too early") from None


def begins_like_image(data: bytes) -> bool:
    """Whether bytes begin as images of the usual encodings do, and are one by their header."""
    if data.startswith((JPEG, PNG)):
        return True
    if not (data.startswith(USUAL) or data[8:12] in (b"WEBP", b"avif")):
        return False
    try:
        with opened(data):
            return True
    except (OSError, ValueError):
        return False


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of files, with their dot, that Pillow knows as images that it reads here."""
    from PIL import Image

    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable_formats())


def check_pixels(height: int, width: int, most: int) -> None:
    """Raises `ValueError` where an image has more pixels than may be taken memory for."""
    if height * width > most:
        raise ValueError(f"{width}×{height} pixels, more than {most:,}")


def kind_in(image: ImageFile.ImageFile, data: bytes) -> Kind:
    """The kind of an opened image, before it is decoded.

    Raises:
        ValueError: its levels are finer than any reader here can give.
    """
    raw = _raw_mode(image)
    alpha = image.has_transparency_data
    if image.mode in SIXTEEN:
        return Kind("uint16", 2 if alpha else 1)
    if image.mode == "I":
        return Kind("uint32" if _is_unsigned(image, raw) else "int32", 1)
    if image.mode == "F":
        if "64" in raw:
            raise ValueError("levels of 64 bits, which become 32 here; store them as .npy")
        return Kind("float32", 1)
    grey = image.mode in ("1", "L", "LA", "La")
    channels = {(True, False): 1, (True, True): 2, (False, False): 3, (False, True): 4}[grey, alpha]
    if _is_deep(image, raw, data):
        if image.format not in ("PNG", "TIFF", "PPM") or image.mode not in ("RGB", "RGBA", "RGBX", "LA"):
            raise ValueError(f"{image.format} of 16 bits in mode {image.mode}, which become 8; save it as PNG or TIFF")
        if image.format == "PNG" and data[25] == 4:  # Pillow widens grey of 16 bits with alpha to colour
            channels = 2
        return Kind("uint16", channels)
    return Kind("uint8", channels)


def orientation_of(image: ImageFile.ImageFile, data: bytes) -> int:
    """How an opened image is to be turned, 1 to 8, from EXIF or XMP; of a TIFF only before it is loaded.

    Raises:
        OSError, ValueError: a PNG with such a tag cannot be decoded.
    """
    if image.format == "PNG":
        if not any(turns_png(data, name, start) for name, start, _ in png_chunks(memoryview(data))):
            return 1
        image.load()  # the tag may come after the pixels, so Pillow would load them too, and hide what is wrong
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged EXIF Pillow lets through whatever its parsing raises; viewers pass over it too
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def png_chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin of the content and its length of every whole chunk of a PNG file."""
    at = len(PNG)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield name, at + 8, length
        at += 12 + length


def turns_png(data: bytes | memoryview, name: bytes, start: int) -> bool:
    """Whether a chunk of a PNG may say how it is to be turned: EXIF, or a text that holds EXIF or XMP."""
    if name in (b"tEXt", b"zTXt", b"iTXt"):
        return bytes(data[start : start + 21]).startswith((b"Raw profile type exif", b"XML:com.adobe.xmp"))
    return name == b"eXIf"


def jpeg_orientation(data: memoryview) -> int | None:
    """The orientation in a JPEG file, from its segments alone; ``None`` where only Pillow can tell."""
    at = 2
    end = len(data)
    found = 1
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in (0xDA, 0xD9):  # the pixels begin, or the end
            return found
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1:
            segment = bytes(data[at + 4 : at + 2 + length])
            in_exif = _exif_orientation(segment[6:]) if segment.startswith(b"Exif\0\0") else 1
            if in_exif is None or _IN_XMP.search(segment):
                return None
            found = in_exif if in_exif != 1 else found
        at += 2 + length
    return None


def _exif_orientation(exif: bytes) -> int | None:
    """The tag in the first directory of EXIF data, 1 without one; ``None`` where it is not plain."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(order + "I", exif, 4)
    if at + 2 > len(exif):
        return None
    (entries,) = struct.unpack_from(order + "H", exif, at)
    if at + 2 + 12 * entries > len(exif):
        return None
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == _ORIENTATION:
            return value if kind == 3 and count == 1 and 1 <= value <= 8 else None
    return 1


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, in Pillow's words, e.g. ``RGB;16B``."""
    args = image.tile[0][3] if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_deep(image: ImageFile.ImageFile, raw: str, data: bytes) -> bool:
    """Whether an image that Pillow decodes to 8 bits a channel has 16."""
    if image.format == "PPM":
        args = image.tile[0][3]
        return isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    if image.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")
        return at >= 0 and at + 42 < len(data) and (data[at + 42] & 127) + 1 > 8
    return ";16" in raw and image.mode not in ("1", "L", "P")


def _is_unsigned(image: ImageFile.ImageFile, raw: str) -> bool:
    return image.format == "TIFF" and raw.startswith("I;32") and not raw.endswith("S")


def _more_frames(image: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damage behind the first frame, which alone is read
        return True

"""What an image becomes: a kind for every mode of Pillow, an extension for every encoding.

    Pillow's mode                       kind             array
    1, L                                grey             uint8 (height, width); of mode 1 levels 0 and 255
    LA, La, grey with transparency      grey+alpha       uint8 (height, width, 2)
    P without transparency, RGB, RGBX   rgb              uint8 (height, width, 3); RGBX is padding, not alpha
    CMYK, YCbCr, LAB, HSV               rgb              the same, by Pillow's conversion
    P with transparency, PA, RGBA, RGBa,
    RGB with transparency               rgba             uint8 (height, width, 4), colours not premultiplied
    I;16, I;16L, I;16B, I;16N           grey16           uint16 (height, width)
    I                                   int32, uint32    (height, width), as the file has a sign or not
    F                                   float32          (height, width)

Colour of 16 bits in PNG, TIFF and PPM, of which Pillow gives the high bytes, is rgb16, rgba16 or grey+alpha16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["stored", "grey", "rgb", "rgba"]
"""What a user may bring images to; ``stored`` leaves each the kind that it has."""
MODES: tuple[Mode, ...] = ("stored", "grey", "rgb", "rgba")
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)

FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "CUR", "ICNS"),
    *("DDS", "SGI", "QOI", "PSD", "PCX", "DCX", "SUN", "XBM", "XPM", "MSP", "FITS", "BLP", "FTEX", "GBR", "FLI"),
    *("TGA", "IM", "SPIDER", "PIXAR", "MCIDAS", "PCD"),
)
"""What Pillow may take an image for, in this order. Of others it would start programs (PostScript), draw what they
describe (WMF), or only know the name (GRIB, HDF5, MPEG)."""

EXTENSIONS: Mapping[str, str] = {
    **{"JPEG": "jpg", "MPO": "jpg", "DIB": "bmp", "TIFF": "tif", "JPEG2000": "jp2"},  # noqa: PIE800  # the odd ones
    **{name: name.lower() for name in ("PNG", "WEBP", "GIF", "BMP", "PPM", "ICO", "ICNS", "TGA", "PCX", "DDS", "SGI")},
}
"""The members' extension where all images of a field have this encoding."""
MIXED = "png"
"""The members' extension otherwise: readers of WebDataset hand it to a decoder that looks at the content."""
NAMED_IMAGES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpc", "jpf", "jpx", "j2c", "avif", "avifs"),
        *("ico", "cur", "icns", "tga", "pcx", "dds", "sgi", "qoi", "psd", "xbm", "xpm"),
    )
)
"""Extensions of members that are images."""

Image = NDArray[Any]

_DEPTHS = {"uint8": "", "uint16": "16"}
_CHANNELS = {1: "grey", 2: "grey+alpha", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class Kind:
    """Type and channels of an image's array."""

    dtype: str
    channels: int

    @property
    def name(self) -> str:
        """As the module's table and messages have it."""
        if self.dtype not in _DEPTHS:
            return self.dtype
        return f"{_CHANNELS[self.channels]}{_DEPTHS[self.dtype]}"

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.channels in (2, 4)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The array's shape."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *(Kind(dtype, channels) for dtype in _DEPTHS for channels in _CHANNELS),
        *(Kind(dtype, 1) for dtype in ("int32", "uint32", "float32")),
    )
}
"""All kinds by name."""


def kind_of(image: Image) -> Kind:
    """The kind of a decoded image."""
    return Kind(np.dtype(image.dtype).name, 1 if image.ndim == 2 else image.shape[2])


def is_image(member: str) -> bool:
    """Whether a member with this extension is an image, e.g. ``image.png`` or ``jpg``."""
    return member.rpartition(".")[2] in NAMED_IMAGES


def advised_mode(kinds: Iterable[str], setting: str) -> str:
    """What to do about images of several kinds, given by name: the mode that brings all of them to one.

    Args:
        setting: how the setting is called where it is given, e.g. ``data.image_mode``.
    """
    found = [KINDS[name] for name in kinds]
    if any(kind.dtype not in _DEPTHS for kind in found):
        return "levels of 32 bits fit in no common mode: set data.map, or bring the files to one kind"
    if any(kind.has_alpha for kind in found):
        return f'set {setting} to "rgba", or to "rgb" to lay them on {setting.replace("mode", "background")}'
    if any(kind.channels == 3 for kind in found):
        return f'set {setting} to "rgb"'
    return f'set {setting} to "grey", which is 8 bits'

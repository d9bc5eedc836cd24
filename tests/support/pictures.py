"""Images of every mode of Pillow, and of what Pillow cannot write: colour of 16 bits, tags, damage."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MODES = (
    *("1", "L", "LA", "La", "P", "P with transparency", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "DDS", "SGI", "QOI")
HEIGHT, WIDTH = 16, 24


def picture(mode: str, seed: int = 0) -> Image.Image:
    """An image of random smooth colours in a mode; alpha varies where there is some."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 6, 4), np.uint8)
    rgba = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    rgb = Image.fromarray(np.ascontiguousarray(np.asarray(rgba)[:, :, :3]))
    if mode.startswith("I;16"):
        levels = random.integers(0, 65536, (HEIGHT, WIDTH))
        return Image.frombytes(mode, (WIDTH, HEIGHT), levels.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode == "I":
        return Image.fromarray(random.integers(-(2**31), 2**31, (HEIGHT, WIDTH)).astype(np.int32))
    if mode == "F":
        return Image.fromarray(random.normal(0, 1e6, (HEIGHT, WIDTH)).astype(np.float32))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    if mode == "P":
        return rgb.convert("P")
    if mode == "P with transparency":
        image = rgb.convert("P")
        image.info["transparency"] = bytes(random.integers(0, 256, 256, np.uint8))
        return image
    if mode == "La":
        return rgba.convert("LA").convert("La")
    return (rgba if mode in ("LA", "PA", "RGBA", "RGBa", "RGBX") else rgb).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes | None:
    """The image as a file; ``None`` where the format does not take the mode."""
    stream = io.BytesIO()
    try:
        image.save(stream, kind, **options)
    except (OSError, KeyError, ValueError, SystemError, TypeError):
        return None
    return stream.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(levels: np.ndarray, *between: bytes) -> bytes:
    """A PNG of uint8 or uint16 levels, shape (height, width, channels), with further chunks before its pixels."""
    height, width, channels = levels.shape
    depth, colour = levels.dtype.itemsize * 8, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = levels.astype(levels.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [png_chunk(b"IHDR", header), *between, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bytes_of(data: bytes) -> np.ndarray:
    """A file's content as decoders take it."""
    return np.frombuffer(data, np.uint8)

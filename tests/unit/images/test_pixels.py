"""Promise 14 for images: every mode of Pillow in every format becomes what the table says, with Pillow's own pixels."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image, ImageOps

from streamtrain.images.checking import checked
from streamtrain.images.headers import look
from streamtrain.images.kinds import KINDS, kind_of
from streamtrain.images.pixels import decode_image
from tests.support.pictures import FORMATS, HEIGHT, MODES, WIDTH, bytes_of, encoded, picture, png_chunk, png_of

BY_MODE = {
    "1": "grey",
    "L": "grey",
    "LA": "grey+alpha",
    "La": "grey+alpha",
    "RGB": "rgb",
    "RGBX": "rgb",
    "CMYK": "rgb",
    "YCbCr": "rgb",
    "LAB": "rgb",
    "HSV": "rgb",
    "PA": "rgba",
    "RGBA": "rgba",
    "RGBa": "rgba",
    "F": "float32",
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "grey16"),
    "I": "int32",
}
PILLOWS = {"grey": "L", "grey+alpha": "LA", "rgb": "RGB", "rgba": "RGBA"}


def by_pillow(data: bytes, kind: str) -> np.ndarray:
    """The naive twin: Pillow's pixels, in the mode that this kind stands for."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert(PILLOWS[kind]) if kind in PILLOWS else upright)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=4)
@given(seed=some.integers(0, 2**32 - 1))
def test_every_mode_in_every_format_is_what_pillow_shows(mode: str, kind: str, seed: int) -> None:
    data = encoded(picture(mode, seed), kind)
    if data is None:
        return  # the format does not take the mode
    with Image.open(io.BytesIO(data)) as image:
        mode_there, transparent = image.mode, image.has_transparency_data
        size = (image.height, image.width)  # an icon has sizes of its own
    expected = "rgba" if mode_there == "P" and transparent else BY_MODE.get(mode_there, "rgb")
    header, found = look(data), decode_image(bytes_of(data))
    assert header.kind.name == expected and header.shape[:2] == found.shape[:2] == size
    opaque = header.kind.has_alpha and not KINDS[kind_of(found).name].has_alpha
    assert kind_of(found) == header.kind or opaque
    pillow = by_pillow(data, kind_of(found).name)
    assert found.dtype.itemsize == pillow.dtype.itemsize
    assert np.array_equal(found, pillow), "by the decoder that Pillow has too, so without a difference"
    assert checked(data)[0].kind == kind_of(found)


def test_the_formats_hold_most_modes() -> None:
    """So that the test above has cases."""
    taken = {(mode, kind) for mode in MODES for kind in FORMATS if encoded(picture(mode), kind) is not None}
    assert len(taken) >= 100
    assert {mode for mode, kind in taken if kind == "TIFF"} >= {"PA", "LAB", "CMYK", "I;16B", "I", "F"}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@settings(max_examples=10)
@given(seed=some.integers(0, 2**32 - 1), height=some.integers(1, 20), width=some.integers(1, 20))
def test_png_keeps_all_bits(channels: int, depth: type, seed: int, height: int, width: int) -> None:
    levels = np.random.default_rng(seed).integers(0, np.iinfo(depth).max, (height, width, channels), dtype=depth)
    found = decode_image(bytes_of(png_of(levels)))
    assert found.dtype == depth and np.array_equal(found.reshape(levels.shape), levels)
    assert look(png_of(levels)).shape == found.shape


def test_colour_of_16_bits_in_tiff_and_ppm_keeps_them() -> None:
    import cv2

    levels = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    done, tiff = cv2.imencode(".tif", levels[:, :, ::-1])
    assert done and np.array_equal(decode_image(tiff), levels)
    ppm = b"P6\n7 9\n65535\n" + levels.astype(">u2").tobytes()
    assert np.array_equal(decode_image(bytes_of(ppm)), levels) and look(ppm).kind.name == "rgb16"


@pytest.mark.parametrize("colour", ["grey", "rgb", "grey16", "rgb16"])
def test_a_transparent_colour_becomes_alpha(colour: str) -> None:
    depth = np.uint16 if "16" in colour else np.uint8
    levels = (
        np.arange(12, dtype=depth).reshape(2, 2, 3) if "rgb" in colour else np.arange(4, dtype=depth).reshape(2, 2, 1)
    )
    key = levels[1, 0].astype(">u2").tobytes()
    found = decode_image(bytes_of(png_of(levels, png_chunk(b"tRNS", key))))
    assert np.array_equal(found[:, :, :-1], levels)
    assert (found[:, :, -1] == [[np.iinfo(depth).max] * 2, [0, np.iinfo(depth).max]]).all()


def test_alpha_that_is_opaque_throughout_is_no_kind_of_its_own() -> None:
    for mode, shape in (("RGBA", (HEIGHT, WIDTH, 3)), ("LA", (HEIGHT, WIDTH))):
        opaque = picture("RGB" if mode == "RGBA" else "L").convert(mode)
        data = encoded(opaque, "PNG")
        assert data is not None and decode_image(bytes_of(data)).shape == shape
        assert checked(data)[0].shape == shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_followed_in_every_format(kind: str, orientation: int) -> None:
    """Pillow's own `exif_transpose` is the twin; the header has the shape that is delivered."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    for mode in ("RGB", "L"):
        data = encoded(picture(mode), kind, **options)
        assert data is not None
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        found = decode_image(bytes_of(data))
        assert np.array_equal(found, expected) and look(data).shape == expected.shape
        assert look(data).orientation == orientation
    small = decode_image(bytes_of(data), at_least=(2, 2))
    assert (small.shape[0] > small.shape[1]) == (orientation >= 5)


def test_orientation_in_xmp_and_in_a_late_chunk() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = np.rot90(levels, -1)
    exif = Image.Exif()
    exif[0x0112] = 6
    late = png_of(levels)[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + png_chunk(b"IEND", b"")
    for data in (png_of(levels, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), late):
        assert np.array_equal(decode_image(bytes_of(data)), turned) and look(data).shape == turned.shape
    jpeg = encoded(Image.fromarray(levels), "JPEG")
    assert jpeg is not None
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    marked = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    assert decode_image(bytes_of(marked)).shape == look(marked).shape == (6, 4, 3)


def test_jpeg_with_stray_bytes_is_read_as_pillow_reads_it() -> None:
    data = encoded(picture("RGB"), "JPEG", quality=95)
    assert data is not None
    odd = data[:-2] + bytes(16) + data[-2:]
    assert np.array_equal(decode_image(bytes_of(odd)), by_pillow(odd, "rgb"))
    assert list(checked(odd)[1]) == ["JPEG data with stray or damaged bytes, as Pillow reads them"]
    assert checked(data)[1] == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "no image that Pillow knows"),
        ("png cut short", "truncated"),
        ("jpeg cut short", "truncated"),
        ("levels of 64 bits", "levels of 64 bits, which become 32 here"),
        ("tiff of 64 bits", "no image that Pillow knows"),
        ("cmyk of 16 bits", "TIFF of 16 bits in mode CMYK, which become 8"),
    ],
)
def test_what_cannot_be_read_without_a_loss_is_refused(name: str, message: str) -> None:
    png, jpeg = (encoded(picture("RGB"), kind) for kind in ("PNG", "JPEG"))
    assert png is not None and jpeg is not None
    data = {
        "text": b"only text, whatever its name",
        "png cut short": png[:-40],
        "jpeg cut short": jpeg[:-40],
        "levels of 64 bits": fits(),
        "tiff of 64 bits": tiff(339, (3,), bits=64, photometric=1),
        "cmyk of 16 bits": tiff(339, (1,) * 4, bits=16, photometric=5),
    }[name]
    for read in (lambda: decode_image(bytes_of(data)), lambda: checked(data)):
        with pytest.raises((OSError, ValueError), match=message):
            read()


def fits() -> bytes:
    """FITS of 2×2 levels of float64."""
    cards = [("SIMPLE", "T"), ("BITPIX", "-64"), ("NAXIS", "2"), ("NAXIS1", "2"), ("NAXIS2", "2")]
    text = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards) + "END"
    return text.ljust(2880).encode() + np.ones(4, ">f8").tobytes().ljust(2880, b"\0")


def tiff(tag: int, value: tuple[int, ...], *, bits: int, photometric: int) -> bytes:
    """An uncompressed TIFF of 2×2 pixels of zeros, with as many channels as the sample format has values."""
    import struct

    channels, pixels = len(value), bytes(4 * len(value) * bits // 8)
    entries = {256: (2,), 257: (2,), 258: (bits,) * channels, 259: (1,), 262: (photometric,), 273: (8,)}
    entries |= {277: (channels,), 278: (2,), 279: (len(pixels),), tag: value}
    directory, more, at = b"", b"", 8 + len(pixels)
    behind = at + 2 + 12 * len(entries) + 4
    for number in sorted(entries):
        values = entries[number]
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", behind + len(more)), more + packed
        directory += struct.pack("<HHI", number, 3, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", at)
    return head + pixels + struct.pack("<H", len(entries)) + directory + bytes(4) + more


def test_only_the_first_of_several_frames_is_read_and_that_is_said() -> None:
    stream = io.BytesIO()
    picture("RGB", 1).save(stream, "GIF", save_all=True, append_images=[picture("RGB", 2)])
    assert look(stream.getvalue()).frames
    still = encoded(picture("RGB"), "GIF")
    assert still is not None and not look(still).frames

"""Images brought to one kind and size: Pillow's own conversions are the twin."""

import numpy as np
import pytest
from PIL import Image

from streamtrain.images.conversion import ImageForm, converted, image_in, resized
from streamtrain.images.kinds import KINDS, MODES, advised_mode, kind_of
from tests.support.pictures import bytes_of, encoded, picture

SEA: tuple[int, int, int] = (10, 120, 200)


@pytest.mark.parametrize("background", [(255, 255, 255), SEA])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_are_pillows_conversions(mode: str, background: tuple[int, int, int]) -> None:
    image = picture(mode)
    ground = Image.new("RGB", image.size, background)
    ground.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    expected = {
        "stored": image,
        "rgba": image.convert("RGBA"),
        "rgb": ground,
        "grey": image if mode == "L" else ground.convert("L"),
    }
    for wanted in MODES:
        found = converted(np.asarray(image), wanted, background)
        assert found.dtype == np.uint8 and np.array_equal(found, np.asarray(expected[wanted])), wanted


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_of_16_bits_the_high_byte_is_taken(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (5, 4, channels)).astype(np.uint16)
    image = levels[:, :, 0] if channels == 1 else levels
    for mode in ("grey", "rgb", "rgba"):
        assert np.array_equal(converted(image, mode), converted((image >> 8).astype(np.uint8), mode))
    assert converted(image, "stored") is image


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_levels_of_32_bits_have_no_mode(dtype: type) -> None:
    with pytest.raises(ValueError, match=r"levels, which have no 8 bits; leave the image mode as stored"):
        converted(np.zeros((2, 2), dtype), "grey")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(4, 6), (16, 24), (31, 40), (3, 60)])
def test_every_kind_can_be_resized(name: str, size: tuple[int, int]) -> None:
    kind = KINDS[name]
    found = resized(np.full(kind.shape(16, 24), 77, kind.dtype), size)
    assert kind_of(found) == kind and found.shape[:2] == size and (found == 77).all()


def test_what_is_transparent_does_not_bleed() -> None:
    image = np.zeros((2, 2, 4), np.uint8)
    image[0] = (200, 10, 30, 255)
    image[1] = (0, 255, 0, 0)
    assert resized(image, (1, 1)).tolist() == [[[200, 10, 30, 128]]]


def test_a_form_is_the_same_from_every_encoding() -> None:
    form = ImageForm((8, 12), "rgb")
    for mode in ("L", "RGB", "P"):
        found = [image_in(bytes_of(encoded(picture(mode), kind) or b""), form) for kind in ("PNG", "TIFF", "BMP")]
        assert all(np.array_equal(found[0], other) and other.shape == (8, 12, 3) for other in found)


def test_advice_names_a_mode_that_cures() -> None:
    assert advised_mode(["grey", "rgb"], "data.image_mode") == 'set data.image_mode to "rgb"'
    assert '"rgba"' in advised_mode(["rgb", "rgba"], "image_mode") and "image_background" in advised_mode(
        ["rgb", "rgba"], "image_mode"
    )
    assert '"grey"' in advised_mode(["grey", "grey16"], "image_mode")
    assert "data.map" in advised_mode(["grey", "float32"], "image_mode")

"""Images brought to one kind and one size, as arrays: the same at packing and at reading.

From 16 bits to 8 the high byte is taken. Colour becomes grey as Pillow's ``convert("L")`` has it (ITU-R 601-2).
Alpha is laid on a background where the mode has none, as Pillow's ``paste`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.images.headers import MOST_PIXELS
from streamtrain.images.kinds import WHITE, Color, Image, Mode, kind_of
from streamtrain.images.pixels import Bytes, Size, decode_image, opencv


@dataclass(frozen=True)
class ImageForm:
    """What images are brought to.

    Attributes:
        size: height and width; ``None`` for that which each has.
        mode: the kind; ``stored`` for that which each has.
        background: the colour on which alpha is laid where the mode has none.
    """

    size: Size | None = None
    mode: Mode = "stored"
    background: Color = WHITE


def image_in(data: Bytes, form: ImageForm, into: Image | None = None, most: int = MOST_PIXELS) -> Image:
    """An image file's pixels in a form; ``into`` and ``most`` as of `decode_image`.

    Raises:
        OSError, ValueError: it cannot be read, or not be brought to that.
    """
    buffer = into if form.size is None else None
    image = decode_image(data, buffer, form.size, most, rgb=form.mode in ("rgb", "rgba"))
    image = converted(image, form.mode, form.background)
    return image if form.size is None else resized(image, form.size)


def converted(image: Image, mode: Mode, background: Color = WHITE) -> Image:
    """The image in a mode: uint8 of shape (height, width), (…, 3) or (…, 4); as it is where that is ``stored``.

    Args:
        background: the colour on which an image with alpha is laid, for grey and rgb.

    Raises:
        ValueError: its levels are of 32 bits, which have no range that 8 bits could stand for.
    """
    if mode == "stored":
        return image
    kind = kind_of(image)
    if kind.dtype not in ("uint8", "uint16"):
        raise ValueError(f"{kind.name} levels, which have no 8 bits; leave the image mode as stored")
    if kind.dtype == "uint16":
        image = (image >> 8).astype(np.uint8)
    if mode == "rgba":
        return _with_alpha(image)
    if kind.has_alpha:
        image = _laid_on(image, background)
    if mode == "grey":
        return image if image.ndim == 2 else np.asarray(_picture(image).convert("L"))
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def resized(image: Image, size: Size) -> Image:
    """The image at this height and width, by the mean over areas where it shrinks and linearly where it grows.

    Where it has alpha, colours count by their alpha, so that what is transparent does not bleed into the rest.
    """
    if image.shape[:2] == size:
        return image
    kind = kind_of(image)
    if kind.has_alpha:
        return _resized_with_alpha(image, size)
    if kind.dtype in ("int32", "uint32"):  # float64 holds all of them
        return _rounded(_scaled(image.astype(np.float64), size), image.dtype)
    return np.asarray(_scaled(image, size), image.dtype)


def _scaled(image: Image, size: Size) -> Image:
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    cv2 = opencv()
    scaled = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled)


def _resized_with_alpha(image: Image, size: Size) -> Image:
    levels = image.astype(np.float64)
    alpha = levels[:, :, -1:]
    both = _scaled(np.concatenate([levels[:, :, :-1] * alpha, alpha], axis=2), size)
    weight = both[:, :, -1:]
    colours = np.divide(both[:, :, :-1], weight, out=np.zeros_like(both[:, :, :-1]), where=weight > 0)
    return _rounded(np.concatenate([colours, weight], axis=2), image.dtype)


def _rounded(levels: Image, dtype: np.dtype[Any]) -> Image:
    limits = np.iinfo(dtype)
    return np.clip(np.rint(levels), limits.min, limits.max).astype(dtype)


def _with_alpha(image: Image) -> Image:
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 4:
        return image
    colours = np.repeat(image.reshape(*image.shape[:2], channels)[:, :, :1], 3, axis=2) if channels < 3 else image
    alpha = image[:, :, 1:] if channels == 2 else np.full((*image.shape[:2], 1), 255, np.uint8)
    return np.concatenate([colours, alpha], axis=2)


def _laid_on(image: Image, background: Color) -> Image:
    from PIL import Image as Pillow

    picture = _picture(_with_alpha(image))
    ground = Pillow.new("RGB", picture.size, background)
    ground.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return np.asarray(ground)


def _picture(image: Image) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(image)

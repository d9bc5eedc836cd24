"""Images brought to one size and kind while they are packed, and stored as arrays: decoding is paid once.

An array is what a reader gives for the original with the same ``image_size`` and ``image_mode``, bit for bit: nothing
is encoded again, so nothing is lost a second time, and reading is a copy.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import BadExample, SourceError, complaint, one_line
from streamtrain.images.conversion import ImageForm, image_in
from streamtrain.images.headers import begins_like_image
from streamtrain.images.kinds import Kind, advised_mode, is_image, kind_of
from streamtrain.packing.options import PackOptions
from streamtrain.packing.sources.source import Example, Source
from streamtrain.shards.codec import ImageFile, Raw

MODE = "--image-mode"
LOOKED_AT = 8
"""Examples by which fields of images are known: some of them may be unreadable."""


def with_sized_images(source: Source, options: PackOptions) -> Source:
    """The source with its images as arrays of ``options.image_size``; as it is where that is not set.

    Raises:
        SourceError: there are no images; from its examples, images of several kinds.
    """
    if options.image_size is None:
        return source
    form = ImageForm(options.image_size, options.image_mode, options.image_background)
    looked_at = [values for _, values in itertools.islice(source.examples(0), LOOKED_AT)]
    fields = frozenset(name for values in looked_at for name, value in values.items() if _file_of(value) is not None)
    if not fields:
        found, do = ", ".join(sorted(looked_at[0])) if looked_at else "no example", "leave --image-size out"
        raise SourceError(complaint(source.name, expected="a field of images", found=found, do=do))
    kinds: dict[str, Kind] = {}
    for _, values in _examples(source, form, fields, {}, 0):
        readable = {name: values[name] for name in fields if isinstance(values[name], np.ndarray)}
        if len(readable) == len(fields):
            kinds = {name: kind_of(image) for name, image in readable.items()}
            break
    return dataclasses.replace(source, examples=partial(_examples, source, form, fields, kinds), batches=None)


def _examples(
    source: Source, form: ImageForm, fields: frozenset[str], kinds: Mapping[str, Kind], start: int
) -> Iterator[Example]:
    """The source's examples; an image that cannot be read is the `BadExample` itself."""
    for where, values in source.examples(start):
        sized = dict(values)
        for name in fields & values.keys():
            image = _sized(values[name], form, f"{where}, field {name!r}")
            if isinstance(image, np.ndarray) and name in kinds and kind_of(image) != kinds[name]:
                both = [kinds[name].name, kind_of(image).name]
                expected, do = f"images of one kind, {both[0]} as the first", advised_mode(both, MODE)
                raise SourceError(complaint(f"{where}, field {name!r}", expected=expected, found=both[1], do=do))
            sized[name] = image
        yield where, sized


def _sized(value: Any, form: ImageForm, where: str) -> NDArray[Any] | SourceError:
    if isinstance(value, SourceError):
        return value
    data = _file_of(value)
    if data is None:
        return BadExample(where, "a readable image", "no image that Pillow knows")
    try:
        return image_in(np.frombuffer(data, np.uint8), form)
    except (OSError, ValueError) as error:
        return BadExample(where, "a readable image", one_line(error))


def _file_of(value: Any) -> bytes | None:
    """An image file's content, where a value is one."""
    if isinstance(value, ImageFile) or (isinstance(value, Raw) and is_image(value.extension)):
        return value.data
    return bytes(value) if isinstance(value, bytes) and begins_like_image(value) else None

"""One field of all examples of a split, read before the first minibatch.

Costs the reading of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, complaint
from streamtrain.shards import Field, Manifest
from streamtrain.stream.examples import Decoding
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader

AT_ONCE, LARGE_AT_ONCE = 1 << 16, 1 << 8
"""Examples whose field is read at once: of single numbers, and of what may be as large as a recording."""


def field_of(setting: str, name: str, place: str, manifest: Manifest) -> Field:
    """The field that a setting names.

    Raises:
        ConfigError: the data set has no such field.
    """
    field = manifest.field_named(name)
    if field is None:
        found = ", ".join(each.name for each in manifest.fields)
        raise ConfigError(
            complaint(setting, expected=f"a field {name!r} in {place}", found=found, do="name one of these")
        )
    return field


def form_in_words(field: Field) -> str:
    """What a field's examples are, for messages."""
    shape = "" if field.shape == () else f" of shape {field.shape or 'that varies'}"
    return f"{field.dtype}{shape}" if field.dtype else "text, JSON, bytes or images"


def column_reader(
    setting: str,
    name: str,
    place: str,
    folder: Path | None,
    manifest: Manifest,
    *,
    verify: bool,
    on_bad_example: Literal["stop", "skip"] = "stop",
) -> Reader:
    """A reader of one field of the training split.

    Args:
        place: the data set's, as messages name it.
        folder: where its shards can be mapped; ``None`` where they are behind a URL.
        verify: check every shard's checksum when it is first opened.

    Raises:
        ConfigError: the data set is behind a URL.
    """
    if folder is None:
        do = "copy it to a folder that all nodes see: the field is read from its shards before the run starts"
        raise ConfigError(complaint(setting, expected="a data set in a folder", found=place, do=do))
    decoding = Decoding(on_bad_example=on_bad_example)
    return Reader(LocalFiles(folder, verify=verify), manifest, "train", (name,), decoding)


def pieces_of(reader: Reader, field: Field) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The field's values in stored order, piece by piece: their stored numbers, and they; bad examples left out.

    Raises:
        ShardError: a shard is damaged, or an example is bad and not to be skipped.
    """
    at_once = AT_ONCE if field.shape == () else LARGE_AT_ONCE
    for start in range(0, len(reader), at_once):
        stop = min(start + at_once, len(reader))
        values = reader.read(start, stop).get(field.name, np.empty(0))
        skipped = [number - start for number in reader.skipped if start <= number < stop]
        yield np.delete(np.arange(start, stop), skipped), values

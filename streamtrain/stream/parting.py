"""Training examples parted by the value of a field, for `st.Balanced`: one look at that field of all of them.

Costs the reading of the field, and 8 bytes an example as long as the run lasts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Balanced
from streamtrain.order import Parts
from streamtrain.shards import Field, Manifest
from streamtrain.stream.fetch.shard_files import LocalFiles
from streamtrain.stream.reader import Reader

AT_ONCE = 1 << 16
"""Examples whose field is read at once."""
MOST_CLASSES = 10_000
SETTING = "data.balance"


def parted_by_class(balance: Balanced, place: str, folder: Path | None, manifest: Manifest, *, verify: bool) -> Parts:
    """The classes of the training split, in the order of their values, with equal shares.

    Args:
        place: the data set's, as messages name it.
        folder: where its shards can be mapped; ``None`` where they are behind a URL.
        verify: check every shard's checksum when it is first opened.

    Raises:
        ConfigError: no such field, one of something else than whole numbers, a class without examples.
        ShardError: a shard is damaged.
    """
    field = manifest.field_named(balance.field)
    if field is None:
        found = ", ".join(each.name for each in manifest.fields)
        raise ConfigError(
            complaint(SETTING, expected=f"a field {balance.field!r} in {place}", found=found, do="name one of these")
        )
    if field.dtype is None or field.shape != () or np.dtype(field.dtype).kind not in "iub":
        expected, do = "one whole number an example", "name a field of classes"
        shape = "" if field.shape == () else f" of shape {field.shape or 'that varies'}"
        found = f"{field.dtype}{shape}" if field.dtype else "text, JSON, bytes or images"
        raise ConfigError(complaint(f"{SETTING}, field {field.name!r}", expected=expected, found=found, do=do))
    if folder is None:
        do = "copy it to a folder that all nodes see: classes are read from its shards before the run starts"
        raise ConfigError(complaint(SETTING, expected="a data set in a folder", found=place, do=do))
    reader = Reader(LocalFiles(folder, verify=verify), manifest, "train", (field.name,))
    values = _column(reader, field.name)
    classes, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    _check_classes(field, classes, place)
    members = np.argsort(inverse, kind="stable")
    return Parts(tuple(counts.tolist()), (1,) * len(classes), members, kind="class")


def _column(reader: Reader, name: str) -> NDArray[np.generic]:
    """A field of all examples of a split, in stored order."""
    starts = range(0, len(reader), AT_ONCE)
    return np.concatenate([reader.read(start, min(start + AT_ONCE, len(reader)))[name] for start in starts])


def _check_classes(field: Field, classes: NDArray[np.generic], place: str) -> None:
    """Refuses classes that are named and have no example, and values that are none."""
    where = f"{SETTING}, field {field.name!r}"
    there = set(classes.tolist())
    missing = [name for value, name in enumerate(field.classes or ()) if value not in there]
    if missing:
        expected, found = f"training examples of every class in {place}", f"none of {', '.join(missing)}"
        raise ConfigError(
            complaint(where, expected=expected, found=found, do="pack examples of it, or without its name")
        )
    if not 2 <= len(classes) <= MOST_CLASSES:
        expected, do = f"2 to {MOST_CLASSES:,} classes", "name a field of classes, or leave data.balance out"
        raise ConfigError(complaint(where, expected=expected, found=f"{len(classes):,} values", do=do))

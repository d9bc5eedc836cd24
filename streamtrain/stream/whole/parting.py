"""Training examples parted by the value of a field, for `st.Balanced`: one look at that field of all of them.

Costs the reading of the field, and 8 bytes an example as long as the run lasts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, complaint
from streamtrain.order import Parts
from streamtrain.shards import Field, Manifest
from streamtrain.stream.whole.column import column_reader, field_of, form_in_words, pieces_of

MOST_CLASSES = 10_000
SETTING = "data.balance"


def parted_by_class(name: str, place: str, folder: Path | None, manifest: Manifest, *, verify: bool) -> Parts:
    """The classes of the training split, in the order of their values, with equal shares.

    Args:
        name: of their field.
        place: the data set's, as messages name it.
        folder: where its shards can be mapped; ``None`` where they are behind a URL.
        verify: check every shard's checksum when it is first opened.

    Raises:
        ConfigError: no such field, one of something else than whole numbers, a class without examples.
        ShardError: a shard is damaged.
    """
    field = field_of(SETTING, name, place, manifest)
    if field.dtype is None or field.shape != () or np.dtype(field.dtype).kind not in "iub":
        expected, do = "one whole number an example", "name a field of classes"
        where = f"{SETTING}, field {field.name!r}"
        raise ConfigError(complaint(where, expected=expected, found=form_in_words(field), do=do))
    reader = column_reader(SETTING, field.name, place, folder, manifest, verify=verify)
    values = np.concatenate([values for _, values in pieces_of(reader, field)])
    classes, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    _check_classes(field, classes, place)
    members = np.argsort(inverse, kind="stable")
    return Parts(tuple(counts.tolist()), (1,) * len(classes), members, kind="class")


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

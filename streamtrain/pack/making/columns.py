"""The short way for arrays that fit in memory: the stored order is an index into them, and a block is a gather."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.pack.codec import FieldEncoder
from streamtrain.pack.making.blocks import npy_start
from streamtrain.pack.making.options import PackOptions
from streamtrain.pack.making.writing import Sample

ORDER_BYTES = 32
"""Memory that the permutation needs for an example while it is made."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """Consecutive examples of the stored order: ``order`` are their numbers in the source.

    ``first`` is the number of the first, for the keys, which have ``digits`` digits.
    """

    order: NDArray[np.int64]
    first: int
    digits: int
    label: str | None

    def key(self, index: int) -> str:
        """The key of one of them."""
        return f"{self.first + index:0{self.digits}d}"


def fits(columns: Columns, options: PackOptions) -> bool:
    """Whether arrays and permutation stay within the memory that may be used."""
    examples = len(next(iter(columns.values())))
    return sum(column.nbytes for column in columns.values()) + ORDER_BYTES * examples <= options.memory_bytes


def column_blocks(
    columns: Columns, encoders: Mapping[str, FieldEncoder], stored: Stored, size: int, options: PackOptions
) -> Iterator[Sample]:
    """As `in_blocks`, of a part of the stored order."""
    per_shard = options.shard_examples or len(stored.order)
    for shard in range(0, len(stored.order), per_shard):
        end = min(shard + per_shard, len(stored.order))
        for first in range(shard, end, size):
            rows = stored.order[first : min(first + size, end)]
            members, labels = {}, ()
            for name, encoder in encoders.items():
                values = columns[name][rows]
                values = np.asarray(values, "<i8" if encoder.counts else values.dtype.newbyteorder("<"))
                members[encoder.block_member] = npy_start(values.dtype.str, values.shape) + values.tobytes()
                labels = tuple(values.tolist()) if name == stored.label and encoder.counts else labels
            yield Sample(stored.key(first), stored.key(first + len(rows) - 1), len(rows), members, labels)

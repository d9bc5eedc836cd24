"""The examples of a run in memory, column by column, until it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.packing.shuffling.encoded import Encoded
from streamtrain.packing.shuffling.runs.sorted_runs import Sizes
from streamtrain.shards.codec import FieldEncoder, Ragged
from streamtrain.shards.shard import BLOCK

FEWEST = 16
"""Examples of a run, however little memory there is."""
SORTING = 40
"""Bytes that sorting needs for each example."""
LOOSE = 32
"""Bytes beside the content for each value of no fixed size: how long it is, where it ends, and where it goes."""

RowTypes = Mapping[str, np.dtype[Any] | None]
"""The type of each field's values; ``None`` for fields that are kept as their members, of any size."""


class HeldExamples:
    """Columns that fill up to a bound.

    Args:
        types: of all fields.
        most_bytes: bound on what they take together, but for the first `FEWEST`.
        most: examples at most, where that is known.
    """

    def __init__(self, types: RowTypes, most_bytes: int, most: int | None) -> None:
        fixed = {name: kind for name, kind in types.items() if kind is not None}
        loose = [name for name in types if name not in fixed]
        self._each = SORTING + LOOSE * len(loose) + sum(kind.itemsize for kind in fixed.values())
        room = max(FEWEST, most_bytes // self._each + 1)
        room = room if most is None else min(room, most)
        self._rows = {name: np.empty((room, *kind.shape), kind.base) for name, kind in fixed.items()}
        self._content = {name: bytearray() for name in loose}  # grows where it lies: its pages are moved, not copied
        self._lengths: dict[str, list[NDArray[np.int64]]] = {name: [] for name in loose}
        self._most_bytes = most_bytes
        self._bytes = 0
        self.examples = 0

    def fits(self, examples: int, content: int) -> bool:
        """Whether there is room for one more beside so many, with so many bytes of members."""
        full = self._bytes + examples * self._each + content >= self._most_bytes
        return not full or self.examples + examples < FEWEST

    def fitting(self, batch: Encoded, start: int) -> int:
        """Up to where examples from ``start`` on fit; all of them where they must stay together."""
        if batch.together:
            return len(batch.codes)
        kept = batch.kept[start:]
        sizes = np.full(len(kept), self._each, np.int64)
        for values in batch.values.values():
            if isinstance(values, Ragged):
                sizes += values.lengths[start:]
        room = np.searchsorted(np.cumsum(sizes * kept), self._most_bytes - self._bytes, side="right")
        at_least = np.searchsorted(np.cumsum(kept), FEWEST - self.examples, side="right")
        return start + int(max(room, at_least))

    def add(self, batch: Encoded, start: int, stop: int) -> None:
        """Takes in those of these that are kept, which fit."""
        kept = batch.kept[start:stop]
        count = int(np.count_nonzero(kept))
        if not count:
            return
        end = self.examples + count
        for name, values in batch.values.items():
            if isinstance(values, Ragged):
                part = values.part(start, stop)
                self._content[name] += part.content.data
                self._lengths[name].append(part.lengths[kept])
                self._bytes += len(part.content)
            else:
                taken = values[start:stop]
                self._rows[name][self.examples : end] = taken if count == len(kept) else taken[kept]
        self._bytes += count * self._each
        self.examples = end

    def columns(self) -> dict[str, NDArray[Any] | Ragged]:
        """All of them; nothing is added after."""
        columns: dict[str, NDArray[Any] | Ragged] = {name: rows[: self.examples] for name, rows in self._rows.items()}
        for name, content in self._content.items():
            lengths = np.concatenate([np.empty(0, np.int64), *self._lengths[name]])
            columns[name] = Ragged(np.frombuffer(content, np.uint8), lengths)
        return columns


def sizes_of(columns: Mapping[str, NDArray[Any] | Ragged], encoders: Mapping[str, FieldEncoder]) -> Sizes:
    """Bytes of each example: of its encoded members with the length of each, and in a tar."""
    encoded: Any = 0
    in_tar: Any = 0
    for name, values in columns.items():
        lengths = values.lengths if isinstance(values, Ragged) else encoders[name].member_bytes(values)
        encoded = encoded + lengths + 8
        in_tar = in_tar + BLOCK + lengths + -lengths % BLOCK
    return Sizes(encoded, in_tar)

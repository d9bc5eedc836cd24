"""Values of different sizes, end to end: columns of texts, bytes and lists without a Python object for each value."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Ragged:
    """A column of values that differ in size.

    Attributes:
        content: their entries end to end: bytes of texts (UTF-8), of files or of members; numbers of lists.
        lengths: entries of each value, int64.
        what: text, bytes, or arrays of one axis.
    """

    content: NDArray[Any]
    lengths: NDArray[np.int64]
    what: Literal["text", "bytes", "array"] = "bytes"

    @classmethod
    def of_bytes(cls, values: Sequence[bytes]) -> Ragged:
        """These, copied."""
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        return cls(np.frombuffer(b"".join(values), np.uint8), lengths)

    @classmethod
    def of_arrow(cls, array: pa.Array) -> Ragged:
        """Texts or bytes of a plain array without nulls; not copied."""
        import pyarrow as pa

        is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
        array = array.cast(pa.large_string() if is_text else pa.large_binary())
        what: Literal["text", "bytes"] = "text" if is_text else "bytes"
        _, offsets, data = array.buffers()
        if not len(array):
            return cls(np.empty(0, np.uint8), np.empty(0, np.int64), what)
        edges = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
        count = int(edges[-1] - edges[0])
        content = np.frombuffer(data, np.uint8, count, int(edges[0])) if count else np.empty(0, np.uint8)
        return cls(content, np.diff(edges), what)

    @functools.cached_property
    def ends(self) -> NDArray[np.int64]:
        """Entries up to the end of each value."""
        return np.cumsum(self.lengths)

    @functools.cached_property
    def _as_arrow(self) -> pa.Array:
        """The values' bytes; refers to the same memory."""
        import pyarrow as pa

        offsets = np.zeros(len(self) + 1, np.int64)
        np.multiply(self.ends, self.content.itemsize, out=offsets[1:])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(self.content))]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Any:
        """One value: str, bytes or array."""
        end = int(self.ends[number])
        value = self.content[end - int(self.lengths[number]) : end]
        if self.what == "array":
            return value
        return value.tobytes().decode() if self.what == "text" else value.tobytes()

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def part(self, start: int, stop: int) -> Ragged:
        """Values ``[start, stop)``; not copied."""
        first, last = (int(self.ends[number - 1]) if number else 0 for number in (start, stop))
        return Ragged(self.content[first:last], self.lengths[start:stop], self.what)

    def take(self, rows: NDArray[np.integer[Any]]) -> Ragged:
        """These values in this order, copied."""
        import pyarrow as pa

        if not len(rows):
            return Ragged(self.content[:0], self.lengths[:0], self.what)
        _, _, data = self._as_arrow.take(pa.array(rows)).buffers()
        lengths = self.lengths[rows]
        count = int(lengths.sum())
        content = np.frombuffer(data, self.content.dtype, count) if count else self.content[:0]
        return Ragged(content, lengths, self.what)

    def joined_to(self, heads: Sequence[bytes], which: NDArray[np.integer[Any]]) -> Ragged:
        """Bytes: value ``i`` after ``heads[which[i]]``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = pa.large_binary()
        before = pa.array(heads, kind).take(pa.array(which))
        return Ragged.of_arrow(pc.binary_join_element_wise(before, self._as_arrow, pa.scalar(b"", kind)))

    def rows_of(self, entries: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which values have an entry of these."""
        counted = np.concatenate([[0], np.cumsum(entries)])
        found: NDArray[np.bool_] = counted[self.ends] > counted[self.ends - self.lengths]
        return found


def slices(values: Ragged) -> list[memoryview]:
    """The bytes of every value; not copied."""
    data = values.content.data
    return [data[start:end] for start, end in itertools.pairwise([0, *values.ends.tolist()])]

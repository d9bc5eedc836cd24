"""Blocks that hold fields of any size, as texts: their arrays lie in pieces, a block each, anywhere in the shard.

Of such a field a block holds its examples' files end to end, as one array of bytes, and the lengths of them. So texts
of a minibatch are cut out of one copy; JSON and whatever else needs decoding is decoded one by one (`examples`).
Whole numbers may lie in a narrower type than the field's.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import one_line
from streamtrain.shards.codec import npy_header
from streamtrain.shards.index import ShardIndex
from streamtrain.shards.manifest import Field
from streamtrain.shards.shard_list import Shard
from streamtrain.stream.columns.open_shard import Bytes, Column, EncodedColumn, OpenShard, unlike


@dataclass(frozen=True)
class PiecesColumn:
    """A block's array each, first axis the example, of types that ``dtype`` holds; all but the last of one length."""

    pieces: tuple[NDArray[Any], ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``[start, stop)``, copied."""
        spans = _spans(start, stop, len(self.pieces[0]))
        parts = [self.pieces[number][first:last] for number, first, last in spans]
        if len(parts) == 1:
            return parts[0].astype(self.dtype, "C")
        return np.concatenate(parts, dtype=self.dtype)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, copied."""
        blocks, within = np.divmod(rows, len(self.pieces[0]))
        taken = np.empty((len(rows), *self.pieces[0].shape[1:]), self.dtype)
        for number in np.unique(blocks).tolist():
            at = blocks == number
            taken[at] = self.pieces[number][within[at]]
        return taken

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """Rows ``[start, stop)``, each as an ``.npy`` file of its own."""
        rows = self.read(start, stop)
        head = npy_header(np.asarray(rows[0]))
        return [head + row.tobytes() for row in rows]


@dataclass(frozen=True)
class StringColumn:
    """Texts, or bytes, that lie end to end in blocks of ``block`` rows; ``where`` names the shard."""

    members: EncodedColumn
    block: int
    where: str
    is_text: bool

    def read(self, start: int, stop: int) -> NDArray[np.object_]:
        """Rows ``[start, stop)``."""
        parts = []
        for number, first, last in _spans(start, stop, self.block):
            rows = slice(number * self.block + first, number * self.block + last)
            sizes = self.members.sizes[rows]
            begin = int(self.members.starts[rows.start])
            content = self.members.data[begin : begin + int(sizes.sum())]  # a block's rows lie end to end
            parts.append(self._cut(content, sizes))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """These rows."""
        starts, sizes = self.members.starts[rows], self.members.sizes[rows]
        data = self.members.data.data
        spans = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        return self._cut(np.frombuffer(b"".join([data[start:end] for start, end in spans]), np.uint8), sizes)

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """Rows ``[start, stop)`` as bytes."""
        return [self.members.member(row).tobytes() for row in range(start, stop)]

    def _cut(self, content: Bytes, sizes: NDArray[np.int64]) -> NDArray[np.object_]:
        """Values of these sizes that lie end to end.

        Arrow makes the objects, four times as fast as a loop here. It checks neither bounds nor sum: `_cut_members`
        has done so.
        """
        import pyarrow as pa

        ends = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=ends[1:])
        kind = pa.large_string() if self.is_text else pa.large_binary()
        values = pa.Array.from_buffers(kind, len(sizes), [None, pa.py_buffer(ends), pa.py_buffer(content)])
        try:
            made: NDArray[np.object_] = values.to_numpy(zero_copy_only=False)
        except pa.ArrowException:  # of some text, without a word about where
            raise unlike(self.where, "text in UTF-8", _not_utf8(content, ends)) from None
        return made


def loose_columns(
    where: str, data: Bytes, index: ShardIndex, shard: Shard, block: int, fields: tuple[Field, ...]
) -> OpenShard:
    """Columns of a shard of blocks that have fields of any size; ``index`` is of its blocks.

    Raises:
        ShardError: it does not hold the blocks that the manifest says.
    """
    counts = [min(block, shard.examples - start) for start in range(0, shard.examples, block)]
    first_key = shard.first_key
    digits = len(shard.first_key)
    if len(index) != len(counts) or not first_key.isdecimal() or index.key(0) != first_key:
        expected, found = f"{len(counts)} blocks from {first_key} on", f"{len(index)} from {index.key(0)} on"
        raise unlike(where, expected, found)
    columns: list[tuple[Field, Column]] = []
    for field in fields:
        if has_any_size(field):
            members = _cut_members(where, data, index, counts, field)
            kind = field.member.rpartition(".")[2]
            is_string = kind in ("txt", "bin")
            columns.append((field, StringColumn(members, block, where, kind == "txt") if is_string else members))
            continue
        pieces = tuple(_arrays(where, data, index, field.member))
        dtype = np.dtype(field.dtype or "V")
        shape = field.shape or ()
        for number, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
            narrower = piece.dtype.kind in "iu" and dtype == np.int64 and piece.dtype.itemsize <= dtype.itemsize
            if piece.shape != (count, *shape) or not (piece.dtype == dtype or narrower):
                expected, found = f"{dtype} of shape {(count, *shape)}", f"{piece.dtype} of shape {piece.shape}"
                raise unlike(f"{where}, block {index.key(number)!r}, field {field.name!r}", expected, found)
        columns.append((field, PiecesColumn(pieces, dtype)))
    return OpenShard(columns, lambda row: f"{int(first_key) + row:0{digits}d}")


def has_any_size(field: Field) -> bool:
    """Whether the field's examples differ in size, so that a block holds their files end to end, and their lengths."""
    return field.shape is None or not field.member.endswith(".npy")


def _cut_members(where: str, data: Bytes, index: ShardIndex, counts: list[int], field: Field) -> EncodedColumn:
    """Where every example's file lies in its block's."""
    starts, sizes = [], []
    contents = _arrays(where, data, index, f"{field.member}.npy")
    lengths = _arrays(where, data, index, f"{field.member}.lengths.npy")
    base = data.__array_interface__["data"][0]
    for number, (content, length, count) in enumerate(zip(contents, lengths, counts, strict=True)):
        size = length.astype(np.int64)
        plain = content.dtype == np.uint8 and content.ndim == 1 and length.dtype.kind == "u"
        # each by itself too: a sum of lengths beyond 64 bits may come out right
        fits = not ((size < 0) | (size > content.size)).any() and size.sum() == content.size
        if not plain or length.shape != (count,) or not fits:
            place = f"{where}, block {index.key(number)!r}, field {field.name!r}"
            raise unlike(place, f"bytes of {count} examples and their lengths", "others")
        ends = np.cumsum(size) + (content.__array_interface__["data"][0] - base)
        starts.append(ends - size)
        sizes.append(size)
    return EncodedColumn(data, np.concatenate(starts), np.concatenate(sizes))


def _arrays(where: str, data: Bytes, index: ShardIndex, extension: str) -> Iterator[NDArray[Any]]:
    """A member's array in every sample, as views of the shard."""
    try:
        column = index.column(extension)
    except KeyError:
        expected, found = f"a member .{extension}", ", ".join(index.extensions)
        raise unlike(f"{where}, block {index.key(0)!r}", expected, found) from None
    for number, (start, size) in enumerate(zip(index.starts[:, column], index.sizes[:, column], strict=True)):
        member = data[start : start + size]
        try:
            shape, dtype, length = _npy_form(member)
        except Exception as error:  # numpy lets through whatever its parser raises
            place = f"{where}, block {index.key(number)!r}"
            raise unlike(place, f"an array in .{extension}", one_line(error)) from None
        values: NDArray[Any] = np.ndarray(shape, dtype, member[length:].data if size > length else None)
        values.flags.writeable = False
        yield values


def _npy_form(member: Bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and type, and where the content begins, which is as long as they say."""
    length = 10 + int.from_bytes(member[8:10].tobytes(), "little")  # of the header, in version 1.0
    shape, fortran, dtype = _npy_header(member[:length].tobytes())
    if fortran or dtype.hasobject or length + math.prod(shape) * dtype.itemsize != len(member):
        raise ValueError(f"{len(member)} bytes for {dtype} of shape {shape}")
    return shape, dtype, length


@functools.lru_cache(1 << 10)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type."""
    stream = io.BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, fortran, dtype


def _spans(start: int, stop: int, block: int) -> Iterator[tuple[int, int, int]]:
    """Rows ``[start, stop)`` by block: its number, and first and last row in it."""
    for number in range(start // block, -(-stop // block)):
        yield number, max(start - number * block, 0), min(stop - number * block, block)


def _not_utf8(content: Bytes, ends: NDArray[np.int64]) -> str:
    """What Python says of the first text that is no UTF-8."""
    for start, end in itertools.pairwise(ends.tolist()):
        try:
            content[start:end].tobytes().decode()
        except UnicodeDecodeError as error:
            return one_line(error)
    raise AssertionError("Arrow and Python decode the same texts")

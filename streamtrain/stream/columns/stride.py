"""Shards whose samples all have the same layout: seen as a table whose rows are samples, without parsing them.

`pack` writes such shards wherever all fields have a fixed size. Every header's bytes that matter are
compared with the first sample's, by column, so a shard that only begins regularly is not taken.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class FixedMember:
    """One member of every sample, by its offsets from the sample's start."""

    extension: str
    header: int
    start: int
    size: int


@dataclass(frozen=True)
class FixedLayout:
    """``table`` is a view of the shard, shape (samples, stride); every row's key has ``key_length`` bytes.

    ``end`` is the offset of the byte after the table.
    """

    table: Bytes
    end: int
    key_length: int
    members: tuple[FixedMember, ...]

    def key(self, row: int) -> str:
        """The key of one sample."""
        return self.table[row, : self.key_length].tobytes().decode("ascii")


def fixed_layout(data: Bytes, samples: int, start: int = 0, *, more: bool = False) -> FixedLayout | None:
    """The layout of ``samples`` samples from byte ``start`` of a shard to its end, or on to ``more`` samples.

    ``None`` where it is not the same in all of them, or the end is not there.
    """
    first = _first_sample(data[start:])
    if first is None or samples < 1:
        return None
    key_length, members, stride = first
    end = start + samples * stride
    if data.size < end + 2 * BLOCK or data[end : end + 2 * BLOCK].any() != more:
        return None
    table = data[start:end].reshape(samples, stride)
    if not all(_same_header(table, member, key_length) for member in members):
        return None
    return FixedLayout(table, end, key_length, members)


def array_column(layout: FixedLayout, member: FixedMember) -> NDArray[np.generic] | None:
    """All samples' arrays of an ``.npy`` member as one view, or ``None`` where their headers differ."""
    body = layout.table[:, member.start : member.start + member.size]
    stream = io.BytesIO(body[0].tobytes())
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
    except (ValueError, KeyError):
        return None
    head = stream.tell()
    length = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or fortran or head + length != member.size or (body[:, :head] != body[0, :head]).any():
        return None
    inner = np.empty(shape, dtype).strides
    offset = member.start + head
    column: NDArray[np.generic] = np.ndarray(
        (len(body), *shape), dtype, buffer=layout.table.data, offset=offset, strides=(layout.table.shape[1], *inner)
    )
    column.flags.writeable = False
    return column


def number_column(layout: FixedLayout, member: FixedMember) -> NDArray[np.int64] | None:
    """All samples' numbers of a ``.cls`` member, or ``None`` where they are not plain digits of one width."""
    digits = layout.table[:, member.start : member.start + member.size] - np.uint8(ord("0"))
    if not 1 <= member.size <= 18 or (digits > 9).any():
        return None
    return digits.astype(np.int64) @ (10 ** np.arange(member.size - 1, -1, -1, dtype=np.int64))


def _first_sample(data: Bytes) -> tuple[int, tuple[FixedMember, ...], int] | None:
    """Key length, members and stride of the first sample, where its headers are plain USTAR."""
    members: list[FixedMember] = []
    key = None
    offset = 0
    while offset + BLOCK <= data.size and data[offset]:
        header = data[offset : offset + BLOCK].tobytes()
        name = header[:100].rstrip(b"\0")
        size_text = header[124:136].rstrip(b"\0 ")
        plain = header[156:157] in (b"0", b"\0") and not any(header[345:500]) and name.isascii() and b"." in name
        if not plain or not size_text.isdigit():
            return None
        folder, slash, base = name.rpartition(b"/")
        stem, _, extension = base.partition(b".")
        if key is None:
            key = folder + slash + stem
        elif key != folder + slash + stem:
            break
        size = int(size_text, 8)
        members.append(FixedMember(extension.decode("ascii"), offset, offset + BLOCK, size))
        offset += BLOCK + -(-size // BLOCK) * BLOCK
    return (len(key), tuple(members), offset) if key and members else None


def _same_header(table: Bytes, member: FixedMember, key_length: int) -> bool:
    """Whether this member's header means the same in every row, and has its row's key."""
    header = table[:, member.header : member.header + BLOCK]
    key = header[:, :key_length]
    columns = ((key_length, 100), (124, 136), (156, 157), (345, 500))
    return bool(
        all((header[:, start:stop] == header[0, start:stop]).all() for start, stop in columns)
        and (key == table[:, :key_length]).all()
        and not np.isin(key, (0, ord("."))).any()
        and (key_length == 0 or ((key == ord("/")) == (key[0] == ord("/"))).all())
    )

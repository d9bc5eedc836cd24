"""A mapped shard as columns: for every field, how rows become an array.

Fixed: all samples of one size, a strided view. Blocks: samples hold many examples each, a view of arrays; those that
hold texts too are in `loose_blocks`. Encoded: members anywhere, each to be decoded by itself (`examples`).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ShardError, complaint, one_line
from streamtrain.shards.codec import npy_header
from streamtrain.shards.index import ShardIndex
from streamtrain.shards.manifest import Field
from streamtrain.shards.shard_list import Shard
from streamtrain.stream.columns.mapped_pages import Pages
from streamtrain.stream.columns.stride import FixedLayout, array_column, fixed_layout, number_column

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class EncodedColumn:
    """Members of ``sizes`` bytes at ``starts``, each to be decoded by itself."""

    data: Bytes
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def member(self, row: int) -> Bytes:
        """One member's bytes, a view of the shard."""
        start = self.starts[row]
        return self.data[start : start + self.sizes[row]]


@dataclass(frozen=True)
class FixedColumn:
    """``values`` is a view of the shard (or made from it), shape (rows, *shape); ``members`` are what it is made of."""

    values: NDArray[Any]
    members: EncodedColumn

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``[start, stop)``, copied."""
        return self.values[start:stop].copy("C")

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, copied."""
        return self.values[rows]

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """The members of rows ``[start, stop)`` as they lie in the shard."""
        return [self.members.member(row).tobytes() for row in range(start, stop)]


@dataclass(frozen=True)
class BlockColumn:
    """``full`` is a view of the full blocks, shape (blocks, block, *shape); ``last`` of a shorter one, or empty."""

    full: NDArray[Any]
    last: NDArray[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``[start, stop)``, copied."""
        block = self.full.shape[1]
        first, row = divmod(start, block)
        if stop - start <= block - row and first < len(self.full):
            return self.full[first, row : row + stop - start].copy("C")
        pieces = []
        while start < stop:
            number, row = divmod(start, block)
            values = self.full[number] if number < len(self.full) else self.last
            pieces.append(values[row : row + stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, copied."""
        blocks, within = np.divmod(rows, self.full.shape[1])
        in_full = blocks < len(self.full)
        if in_full.all():
            return self.full[blocks, within]
        taken = np.empty((len(rows), *self.full.shape[2:]), self.full.dtype)
        taken[in_full] = self.full[blocks[in_full], within[in_full]]
        taken[~in_full] = self.last[within[~in_full]]
        return taken

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """Rows ``[start, stop)``, each as an ``.npy`` file of its own."""
        rows = self.read(start, stop)
        head = npy_header(np.asarray(rows[0]))
        return [head + row.tobytes() for row in rows]


class ArrayColumn(Protocol):
    """Values that need no decoding by themselves."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``[start, stop)``, copied."""
        ...

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, copied."""
        ...

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """The members of rows ``[start, stop)``, each as if it were a sample of its own."""
        ...


Column = ArrayColumn | EncodedColumn


class OpenShard:
    """Columns by the field's name: those that are arrays already, and those to decode; ``key`` tells a row's key.

    Attributes:
        pages: of the file that the columns are views of, where it is mapped.
    """

    def __init__(self, columns: Iterable[tuple[Field, Column]], key: Callable[[int], str]) -> None:
        self.key = key
        self.pages: Pages | None = None
        self.fixed: dict[str, ArrayColumn] = {}
        self.encoded: list[tuple[str, Field, EncodedColumn]] = []
        for field, column in columns:
            if isinstance(column, EncodedColumn):
                self.encoded.append((field.name, field, column))
            else:
                self.fixed[field.name] = column

    def leave(self, row: int) -> None:
        """Says that all rows before this have been read, in order."""
        if self.pages is not None:
            self.pages.leave(row)

    def until_left(self, row: int, rows: int) -> int:
        """The row up to which a reader that is at ``row``, of so many, may go on before it calls `leave`."""
        return rows if self.pages is None else min(rows - 1, row + self.pages.window_rows)


def map_shard(path: Path, where: str) -> mmap.mmap:
    """The shard's bytes, mapped; read when they are touched.

    Raises:
        ShardError: no such file, or an empty one.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ShardError(complaint(where, expected="a shard", found=one_line(error), do="restore it")) from None


def fixed_columns(where: str, data: Bytes, examples: int, fields: tuple[Field, ...]) -> OpenShard | None:
    """Columns of a shard whose samples are one example each and of one size; ``None`` where they are not."""
    layout = fixed_layout(data, examples)
    if layout is None:
        return None
    return OpenShard([(field, _fixed_column(where, layout, field)) for field in fields], layout.key)


def block_columns(where: str, data: Bytes, shard: Shard, block: int, fields: tuple[Field, ...]) -> OpenShard:
    """Columns of a shard of blocks.

    Raises:
        ShardError: it does not hold the blocks that the manifest says.
    """
    blocks, rest = divmod(shard.examples, block)
    full = fixed_layout(data, blocks, more=bool(rest)) if blocks else None
    last = fixed_layout(data, 1, full.end if full else 0) if rest and (full or not blocks) else None
    if (blocks and full is None) or (rest and last is None):
        raise unlike(where, f"{shard.examples} examples in blocks of {block}", "another layout")
    columns: list[tuple[Field, Column]] = []
    for field in fields:
        form = np.dtype(field.dtype or "V"), field.shape or ()
        empty = np.empty((0, block, *form[1]), form[0])
        in_full = empty if full is None else _block_array(where, full, field, block, form)
        in_last = empty[:, 0] if last is None else _block_array(where, last, field, rest, form)[0]
        columns.append((field, BlockColumn(in_full, in_last)))
    first_key = shard.first_key
    digits = len(shard.first_key)
    if not first_key.isdecimal() or (full or last or _never()).key(0) != first_key:
        raise unlike(where, f"the first key {first_key}", (full or last or _never()).key(0))
    return OpenShard(columns, lambda row: f"{int(first_key) + row:0{digits}d}")


def encoded_columns(where: str, data: Bytes, index: ShardIndex, fields: tuple[Field, ...]) -> OpenShard:
    """Columns of any other shard, by its index."""
    columns: list[tuple[Field, Column]] = []
    for field in fields:
        try:
            column = index.column(field.member)
        except KeyError:
            raise _without(where, index.key(0), field, index.extensions) from None
        columns.append((field, EncodedColumn(data, index.starts[:, column], index.sizes[:, column])))
    return OpenShard(columns, index.key)


def _fixed_column(where: str, layout: FixedLayout, field: Field) -> Column:
    member = next((m for m in layout.members if m.extension == field.member), None)
    if member is None:
        raise _without(where, layout.key(0), field, tuple(m.extension for m in layout.members))
    kind = field.member.rpartition(".")[2]
    views: dict[str, Callable[..., NDArray[Any] | None]] = {"npy": array_column, "cls": number_column}
    values = views[kind](layout, member) if kind in views else None
    rows, stride = layout.table.shape
    starts = np.arange(rows, dtype=np.int64) * stride + member.start
    members = EncodedColumn(layout.table.reshape(-1), starts, np.full(rows, member.size))
    return members if values is None else FixedColumn(values, members)


def _block_array(
    where: str, layout: FixedLayout, field: Field, length: int, form: tuple[np.dtype[Any], tuple[int, ...]]
) -> NDArray[Any]:
    """The field's arrays in all blocks of a layout, shape (blocks, length, *shape)."""
    member = next((m for m in layout.members if m.extension == field.member), None)
    if member is None:
        raise _without(where, layout.key(0), field, tuple(m.extension for m in layout.members))
    values = array_column(layout, member)
    dtype, shape = form
    if values is None or values.dtype != dtype or values.shape[1:] != (length, *shape):
        found = "no plain array" if values is None else f"{values.dtype} of shape {values.shape[1:]}"
        place = f"{where}, block {layout.key(0)!r}, field {field.name!r}"
        expected = f"{dtype} of shape {(length, *shape)}"
        raise ShardError(complaint(place, expected=expected, found=found, do="it was altered: restore it"))
    return values


def unlike(where: str, expected: str, found: str) -> ShardError:
    """The error to raise for a shard that is not what the manifest says."""
    return ShardError(complaint(where, expected=expected, found=found, do="it was altered: restore it"))


def _without(where: str, key: str, field: Field, there: tuple[str, ...]) -> ShardError:
    place, found = f"{where}, example {key!r}", ", ".join(sorted(there))
    expected = f"a member .{field.member}"
    return ShardError(complaint(place, expected=expected, found=found, do="it was altered: restore it"))


def _never() -> FixedLayout:
    raise AssertionError("a shard holds at least one example")

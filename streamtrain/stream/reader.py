"""Examples by their number in the stored order, out of mapped shards.

A range of fixed-shape examples costs one copy. Anything else costs an index, made when the shard is
first opened, and one decoding an example.
"""

from __future__ import annotations

import bisect
import itertools
import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, ShardError, complaint, one_line
from streamtrain.pack.manifest import Field, Manifest, Shard
from streamtrain.pack.shard import examples as scan_examples
from streamtrain.stream.decode import decoder_of
from streamtrain.stream.files import ShardFiles
from streamtrain.stream.stride import FixedLayout, array_column, fixed_layout, number_column
from streamtrain.values import Arrays


class Reader:
    """Reads one split of a data set.

    Args:
        files: the data set's shards; as many as it allows are kept mapped, and more lanes than that in one
            worker would open them in turn.
        manifest: its manifest.
        split: ``train``, ``validation`` or ``test``.
        fields: names of the fields to read.

    Raises:
        ConfigError: no such split or field.
    """

    def __init__(self, files: ShardFiles, manifest: Manifest, split: str, fields: Sequence[str]) -> None:
        self._files = files
        self._fields = tuple(_field(files.place, manifest, name) for name in fields)
        if split not in manifest.splits:
            raise ConfigError(
                complaint(files.place, expected=f"a {split} split", found=", ".join(manifest.splits), do="pack one")
            )
        self._shards = manifest.splits[split].shards
        self._starts = [0, *itertools.accumulate(shard.examples for shard in self._shards)]
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> Arrays:
        """Examples ``[start, stop)`` of the stored order; arrays are fresh, C-ordered, first axis the example.

        Raises:
            ShardError: a shard is missing, altered, or holds something else than the manifest says.
        """
        pieces = [
            self._shard(number).read(first, last) for number, first, last in self._pieces(start, stop) if first < last
        ]
        if len(pieces) == 1:
            return pieces[0]
        return {field.name: np.concatenate([piece[field.name] for piece in pieces]) for field in self._fields}

    def locate(self, number: int) -> tuple[Shard, int, str]:
        """The shard of example ``number``, its row there, and its key."""
        index, row, _ = next(iter(self._pieces(number, number + 1)))
        return self._shards[index], row, self._shard(index).key(row)

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(shard, first row, last row + 1) of every shard that the range touches."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"examples [{start}, {stop}) of {len(self)}")
        pieces = []
        index = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[index], self._starts[index + 1]
            pieces.append((index, start - begin, min(stop, end) - begin))
            start, index = min(stop, end), index + 1
        return pieces

    def _shard(self, index: int) -> _OpenShard:
        opened = self._open.get(index)
        if opened is None:
            shard = self._shards[index]
            while len(self._open) >= self._files.most_held:
                # a lane that comes to a shard has left the one before
                left = index - 1 if index - 1 in self._open else next(iter(self._open))
                del self._open[left]
                self._files.release(self._shards[left])
            opened = self._open[index] = _open_shard(self._files.hold(shard), shard.examples, self._fields)
            after = (number + 1 for number in self._open)
            self._files.ahead([self._shards[n] for n in after if n < len(self._shards) and n not in self._open])
        self._open.move_to_end(index)
        return opened


@dataclass(frozen=True)
class _OpenShard:
    """A mapped shard: one function a field from a range of rows to an array, and one to a row's key."""

    columns: dict[str, Callable[[int, int], NDArray[Any]]]
    key: Callable[[int], str]

    def read(self, start: int, stop: int) -> Arrays:
        return {name: column(start, stop) for name, column in self.columns.items()}


def _open_shard(path: Path, count: int, fields: tuple[Field, ...]) -> _OpenShard:
    try:
        with path.open("rb") as file:
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise ShardError(complaint(str(path), expected="a shard", found=one_line(error), do="restore it")) from None
    layout = fixed_layout(data, count)
    if layout is not None:
        return _OpenShard({field.name: _fixed_column(path, layout, field) for field in fields}, layout.key)
    keys, spans = [], []
    for key, members in scan_examples(path):
        keys.append(key)
        spans.append([_member(path, key, members, field) for field in fields])
    if len(keys) != count:
        raise ShardError(
            complaint(str(path), expected=f"{count} examples", found=str(len(keys)), do="it was altered: restore it")
        )
    places = np.array(spans, np.int64).reshape(count, len(fields), 2)
    columns = {
        field.name: _decoded(path, field, data, places[:, i, 0], places[:, i, 1], keys.__getitem__)
        for i, field in enumerate(fields)
    }
    return _OpenShard(columns, keys.__getitem__)


def _fixed_column(path: Path, layout: FixedLayout, field: Field) -> Callable[[int, int], NDArray[Any]]:
    member = next((m for m in layout.members if m.extension == field.member), None)
    if member is None:
        found = {m.extension: (m.start, m.size) for m in layout.members}
        _member(path, layout.key(0), found, field)
        raise AssertionError("unreachable")
    kind = field.member.rpartition(".")[2]
    views: dict[str, Callable[..., NDArray[Any] | None]] = {"npy": array_column, "cls": number_column}
    column = views[kind](layout, member) if kind in views else None
    if column is not None:
        return lambda start, stop: np.array(column[start:stop], order="C")
    rows, stride = layout.table.shape
    offsets = np.arange(rows, dtype=np.int64) * stride + member.start
    return _decoded(path, field, layout.table.reshape(-1), offsets, np.full(rows, member.size), layout.key)


def _decoded(
    path: Path,
    field: Field,
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    key: Callable[[int], str],
) -> Callable[[int, int], NDArray[Any]]:
    """A column whose examples are decoded one by one."""
    decode = decoder_of(field.member)

    def read(start: int, stop: int) -> NDArray[Any]:
        values = []
        for row in range(start, stop):
            try:
                values.append(np.asarray(decode(data[offsets[row] : offsets[row] + sizes[row]].tobytes())))
            except Exception as error:
                where = f"{path}, example {key(row)!r}, field {field.name!r}"
                raise ShardError(
                    complaint(where, expected=f"a readable .{field.member}", found=one_line(error), do="pack again")
                ) from None
        different = next((row for row, value in enumerate(values) if value.shape != values[0].shape), None)
        if different is not None:
            where = f"{path}, example {key(start + different)!r}, field {field.name!r}"
            raise ShardError(
                complaint(
                    where,
                    expected=f"shape {values[0].shape} as in example {key(start)!r}",
                    found=f"{values[different].shape}",
                    do="bring all examples to one shape before packing",
                )
            )
        return np.stack(values)

    return read


def _member(path: Path, key: str, members: dict[str, tuple[int, int]], field: Field) -> tuple[int, int]:
    try:
        return members[field.member]
    except KeyError:
        raise ShardError(
            complaint(
                f"{path}, example {key!r}",
                expected=f"a member .{field.member}",
                found=", ".join(sorted(members)),
                do="it was altered: restore it",
            )
        ) from None


def _field(place: str, manifest: Manifest, name: str) -> Field:
    field = manifest.field_named(name)
    if field is None:
        found = ", ".join(f.name for f in manifest.fields)
        raise ConfigError(
            complaint(place, expected=f"a field {name!r}", found=found, do="set data.inputs and data.target")
        )
    return field

"""Examples by their number in the stored order, out of mapped shards.

A range of fixed-shape examples costs one copy. Anything else costs an index, which `pack` wrote or the first
opening makes, and one decoding an example.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, ShardError, complaint
from streamtrain.shards.manifest import Field, Manifest
from streamtrain.shards.shard_list import Shard
from streamtrain.stream.columns.indexes import find_index
from streamtrain.stream.columns.loose_blocks import has_any_size, loose_columns
from streamtrain.stream.columns.open_shard import (
    OpenShard,
    block_columns,
    encoded_columns,
    fixed_columns,
    map_shard,
)
from streamtrain.stream.decode import Decoder, decoder_of
from streamtrain.stream.examples import Assembler, Decoding, Member, Row
from streamtrain.stream.fetch.shard_files import ShardFiles, ShardRows
from streamtrain.values import Arrays, Loading, Selection, Skip

FIRST_LOOKED_AT = 1000


class Opened(NamedTuple):
    """A mapped file: its columns, the rows of a shard that it holds, and the example at which these end for a lane."""

    columns: OpenShard
    rows: ShardRows
    end: int


class Reader:
    """Reads one split of a data set.

    Args:
        files: the data set's shards; as many as it allows are kept mapped, and more lanes than that in one
            worker would open them in turn.
        manifest: its manifest.
        split: ``train``, ``validation`` or ``test``.
        fields: names of the fields to read.
        decoding: how examples become arrays.

    Attributes:
        skipped: examples that were passed over, by their number in the stored order.

    Raises:
        ConfigError: no such split or field.
    """

    def __init__(
        self,
        files: ShardFiles,
        manifest: Manifest,
        split: str,
        fields: Sequence[str],
        decoding: Decoding | None = None,
    ) -> None:
        self._files = files
        self._block = manifest.block
        self._loose = any(has_any_size(field) for field in manifest.fields)
        self._fields = tuple(_field(files.place, manifest, name) for name in fields)
        if split not in manifest.splits:
            raise ConfigError(
                complaint(files.place, expected=f"a {split} split", found=", ".join(manifest.splits), do="pack one")
            )
        self._split = split
        self._shards = manifest.splits[split].shards
        self._wanted: list[tuple[int, int]] = []
        self._open: OrderedDict[tuple[int, int], Opened] = OrderedDict()
        self._decoding = decoding or Decoding()
        self._decoders: Mapping[str, Decoder] = {
            field.name: decoder_of(field.member, self._decoding.image_form, _bound(manifest, field))
            for field in self._fields
        }
        self._assembler = Assembler(self._decoding)
        self.skipped: dict[int, Skip] = {}
        self._left_out: NDArray[np.int64] = np.array([], np.int64)
        self._bytes_read = 0
        self._near: tuple[int, int, list[tuple[str, Callable[[int, int], NDArray[Any]]]]] = (0, 0, [])

    def __len__(self) -> int:
        return self._shards.examples

    def read(self, start: int, stop: int) -> Arrays:
        """Examples ``[start, stop)`` of the stored order; arrays are fresh, C-ordered, first axis the example.

        Skipped examples are not in it; where all are skipped, there are no arrays.

        Raises:
            ShardError: a shard is missing, altered, or holds something else than the manifest says.
        """
        begin, end, columns = self._near
        if begin <= start < stop <= end and not len(
            self._left_out
        ):  # in the shard last read, all of it arrays: the usual case, kept short
            arrays = {name: read(start - begin, stop - begin) for name, read in columns}
            self._bytes_read += sum([array.nbytes for array in arrays.values()])
            return arrays
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"examples [{start}, {stop}) of {len(self)}")
        if len(self._left_out) and ((start <= self._left_out) & (self._left_out < stop)).any():
            return self.take(np.arange(start, stop))
        return _joined([self._rows(*piece) for piece in self._shards.pieces(start, stop)])

    def _rows(self, number: int, first: int, last: int) -> Arrays:
        """Rows ``[first, last)`` of one shard."""
        begin, end, opened = self._opened(number, first, last)
        first, last = first + self._shards.start(number) - begin, last + self._shards.start(number) - begin
        if opened.encoded or self._decoding.map is not None:
            return self._decoded(number, begin, opened, np.arange(first, last))
        columns: list[tuple[str, Callable[[int, int], NDArray[Any]]]]
        columns = [(name, column.read) for name, column in opened.fixed.items()]
        if not len(self._left_out):
            self._near = (begin, end, columns)
        arrays = {name: read(first, last) for name, read in columns}
        self._bytes_read += _bytes(arrays)
        return arrays

    def expect(self, runs: Sequence[tuple[int, int]]) -> None:
        """Says that only these examples, disjoint runs, will be read: of a shard behind a URL that has others too,
        only its part is fetched then. What is read in spite of that costs the whole shard.
        """
        runs = sorted(runs)
        if not self._files.in_parts or runs == self._wanted:
            return
        for opened in self._open.values():
            self._files.release(opened.rows)
        self._open.clear()
        self._wanted = runs
        self._near = (0, 0, [])

    def leave_out(self, skips: Mapping[int, Skip]) -> None:
        """Passes over these examples, by their stored number, without a look at them."""
        self.skipped |= skips
        self._near = (0, 0, [])
        self._left_out = np.array(sorted(skips), np.int64)

    def where(self, number: int) -> str:
        """Example ``number`` as messages name it."""
        shard, _, key = self.locate(number)
        return f"{self._files.place}/{shard.file}, example {key!r}"

    def extend(self, manifest: Manifest) -> None:
        """Goes on with a data set that has grown: the shards that were there have stayed as they were."""
        self._shards = manifest.splits[self._split].shards

    def select(self, selection: Selection) -> Arrays:
        """A selection's examples, in its order; as `read` otherwise."""
        if selection.numbers is not None:
            return self.take(selection.numbers)
        if len(selection.runs) == 1:
            return self.read(*selection.runs[0])
        return _joined([self.read(start, stop) for start, stop in selection.runs])

    @property
    def skips(self) -> dict[tuple[str, int], Skip]:
        """``skipped`` with the split's name."""
        return {(self._split, number): skip for number, skip in self.skipped.items()}

    @property
    def loading(self) -> Loading:
        """What reading has cost so far."""
        health = self._files.health()
        return replace(health, bytes_read=self._bytes_read, skipped=len(self.skipped))

    def take(self, numbers: NDArray[np.int64]) -> Arrays:
        """The same for any examples, in the order of ``numbers``."""
        numbers = numbers[~np.isin(numbers, self._left_out)]
        shards = np.array([self._shards.holding(number) for number in numbers.tolist()])
        pieces = []
        places = []
        for number in np.unique(shards).tolist():
            at = np.flatnonzero(shards == number)
            rows = numbers[at] - self._shards.start(number)
            begin, _, opened = self._opened(number, int(rows.min()), int(rows.max()) + 1)
            rows += self._shards.start(number) - begin
            if opened.encoded or self._decoding.map is not None:
                piece = self._decoded(number, begin, opened, rows)
                at = at[[int(n) not in self.skipped for n in numbers[at]]]
            else:
                piece = {name: column.take(rows) for name, column in opened.fixed.items()}
                self._bytes_read += _bytes(piece)
            pieces.append(piece)
            places.append(at)
        if not any(pieces):
            return {}
        back = np.argsort(np.concatenate(places), kind="stable")
        return {name: array[back] for name, array in _joined(pieces).items()}

    def samples(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Examples ``[start, stop)`` as WebDataset's readers give them: the members' bytes by extension."""
        for number, first, last in self._shards.pieces(start, stop):
            begin, _, opened = self._opened(number, first, last)
            first, last = first + self._shards.start(number) - begin, last + self._shards.start(number) - begin
            members = {name: column.encoded(first, last) for name, column in opened.fixed.items()}
            url = self._where(number)
            for row in range(first, last):
                sample: dict[str, Any] = {"__key__": opened.key(row), "__url__": url}
                sample |= {f.member: members[f.name][row - first] for f in self._fields if f.name in members}
                sample |= {field.member: column.member(row).tobytes() for _, field, column in opened.encoded}
                yield sample

    def first_good(self) -> Arrays:
        """The first example that is not skipped, alone, of those expected before all others: it shows the form of all.

        Raises:
            ShardError: there is none among the first thousand.
        """
        runs = (range(*run) for run in [*self._wanted, (0, len(self))])
        for number in itertools.islice(itertools.chain.from_iterable(runs), FIRST_LOOKED_AT):
            arrays = self.read(number, number + 1)
            if arrays:
                return arrays
        expected, found = "a readable example", f"{min(len(self), FIRST_LOOKED_AT)} bad ones from the first on"
        raise ShardError(complaint(self._files.place, expected=expected, found=found, do="mend data.map or the data"))

    def locate(self, number: int) -> tuple[Shard, int, str]:
        """The shard of example ``number``, its row there, and its key."""
        index = self._shards.holding(number)
        row = number - self._shards.start(index)
        begin, _, opened = self._opened(index, row, row + 1)
        return self._shards[index], row, opened.key(number - begin)

    def _decoded(self, number: int, begin: int, opened: OpenShard, rows: NDArray[np.int64]) -> Arrays:
        """Rows of what is open of a shard, from example ``begin`` on."""
        where = self._where(number)
        mapped = self._decoding.map is not None
        fixed = {name: column.take(rows) for name, column in opened.fixed.items()}
        self._bytes_read += _bytes(fixed)
        made = []
        for at, row in enumerate(rows.tolist()):
            members = {
                name: Member(column.member(row), self._decoders[name], field.member, _varies(field))
                for name, field, column in opened.encoded
            }
            values = {name: array[at] for name, array in fixed.items()} if mapped else {}
            made.append(Row(values, members, f"{where}, example {opened.key(row)!r}"))
            self._bytes_read += sum(len(member.data) for member in members.values())
        arrays, bad = self._assembler.batch(made)
        if bad:
            self.skipped |= {begin + int(rows[at]): skip for at, skip in bad.items()}
        if mapped or not arrays:
            return arrays
        good = [at for at in range(len(rows)) if at not in bad] if bad else slice(None)
        return {**{name: array[good] for name, array in fixed.items()}, **arrays}

    def _opened(self, index: int, first: int, last: int) -> tuple[int, int, OpenShard]:
        """What is open with the rows ``[first, last)`` of a shard in it: its examples' begin and end, and columns."""
        start = self._shards.start(index)
        key = self._key(start + first, start + last, index)
        if key is None:
            begin, end = self._together(index, start + first, start + last)
            rows = self._files.covering(ShardRows(self._shards[index], begin - start, end - start))
            key = start + rows.first, start + rows.last
            while len(self._open) >= self._files.most_held:
                # a lane that comes to a shard has left the one before
                left = next((each for each in self._open if each[1] == key[0]), next(iter(self._open)))
                self._files.release(self._open.pop(left).rows)
            self._open[key] = Opened(self._columns(index, rows), rows, key[1] if rows.whole else end)
            following = (self._following(opened.end) for opened in self._open.values())
            self._files.ahead([rows for rows in following if rows is not None])
        self._open.move_to_end(key)
        return *key, self._open[key].columns

    def _key(self, begin: int, end: int, index: int) -> tuple[int, int] | None:
        """Under which key these examples of a shard are open."""
        whole = self._shards.start(index), self._shards.start(index + 1)
        if whole in self._open or not self._wanted:
            return whole if whole in self._open else None
        return next((key for key in self._open if key[0] <= begin and end <= key[1]), None)

    def _together(self, index: int, begin: int, end: int) -> tuple[int, int]:
        """The examples of a shard that are expected together with ``[begin, end)``: those of its run, or all."""
        start, stop = self._shards.start(index), self._shards.start(index + 1)
        run = self._run(begin)
        return (max(start, run[0]), min(stop, run[1])) if end <= run[1] else (start, stop)

    def _following(self, example: int) -> ShardRows | None:
        """What a lane needs after what ends at this example, where it goes on and that is not open."""
        run = self._run(example)
        if not run[0] < example < run[1]:
            return None
        index = self._shards.holding(example)
        begin, end = self._together(index, example, example + 1)
        if self._key(begin, end, index) is not None:
            return None
        start = self._shards.start(index)
        return self._files.covering(ShardRows(self._shards[index], begin - start, end - start))

    def _run(self, example: int) -> tuple[int, int]:
        """The expected run that holds an example; an empty one where it is not expected."""
        runs = self._wanted or [(0, len(self))]
        at = bisect.bisect_right(runs, example, key=lambda run: run[0]) - 1
        return runs[at] if at >= 0 and example < runs[at][1] else (example, example)

    def _columns(self, index: int, rows: ShardRows) -> OpenShard:
        shard = rows.as_shard
        where = self._where(index)
        path = self._files.hold(rows)
        data = map_shard(path, where)
        if self._block is not None and self._loose:
            blocks = find_index(shard, path, where, len(data), -(-shard.examples // self._block))
            return loose_columns(where, data, blocks, shard, self._block, self._fields)
        if self._block is not None:
            return block_columns(where, data, shard, self._block, self._fields)
        fixed = fixed_columns(where, data, shard.examples, self._fields)
        return fixed or encoded_columns(
            where, data, find_index(shard, path, where, len(data), shard.examples), self._fields
        )

    def _where(self, index: int) -> str:
        """A shard as messages name it."""
        return f"{self._files.place}/{self._shards.file(index)}"


def _joined(pieces: Sequence[Arrays]) -> Arrays:
    pieces = [piece for piece in pieces if piece]
    if len(pieces) <= 1:
        return pieces[0] if pieces else {}
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _bound(manifest: Manifest, field: Field) -> tuple[int, ...] | None:
    """The shape that bounds a field's images; foreign shards' is only their first image's."""
    return field.shape if manifest.segments else None


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def _varies(field: Field) -> bool:
    """Whether its examples are arrays of different shapes."""
    return field.shape is None and field.dtype is not None and field.member.endswith(".npy")


def _field(place: str, manifest: Manifest, name: str) -> Field:
    field = manifest.field_named(name)
    if field is None:
        found = ", ".join(f.name for f in manifest.fields)
        raise ConfigError(
            complaint(place, expected=f"a field {name!r}", found=found, do="set data.inputs and data.target")
        )
    return field

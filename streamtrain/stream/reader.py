"""Examples by their number in the stored order, out of mapped shards.

A range of fixed-shape examples costs one copy. Anything else costs an index, which `pack` wrote or the first
opening makes, and one decoding an example.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import ConfigError, ShardError, complaint
from streamtrain.job import Collate
from streamtrain.shards.manifest import Field, Manifest
from streamtrain.shards.shard_list import Shard
from streamtrain.stream.columns.joined_rows import rows_of
from streamtrain.stream.columns.open_shard import OpenShard
from streamtrain.stream.examples import Assembler, Decoding, Member, Row
from streamtrain.stream.examples.augmenting import Augmentation, PassAugmentation
from streamtrain.stream.examples.decode import Decoder, decoder_of
from streamtrain.stream.fetch.shard_files import ShardFiles
from streamtrain.values import Arrays, Loading, Selection, Skip

FIRST_LOOKED_AT = 1000


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
        self._fields = tuple(_field(files.place, manifest, name) for name in fields)
        if split not in manifest.splits:
            raise ConfigError(
                complaint(files.place, expected=f"a {split} split", found=", ".join(manifest.splits), do="pack one")
            )
        self._split = split
        self._shards = manifest.splits[split].shards
        self._opened = rows_of(files, manifest, split, self._fields)
        self._decoding = decoding or Decoding()
        self._bounds = {field.name: _bound(manifest, field) for field in self._fields}
        self._decoders: dict[tuple[str, str], Decoder] = {}
        self._assembler = Assembler(self._decoding)
        self.skipped: dict[int, Skip] = {}
        self._left_out: NDArray[np.int64] = np.array([], np.int64)
        self._bytes_read = 0
        self._near: tuple[int, int, list[tuple[str, Callable[[int, int], NDArray[Any]]]]] = (0, 0, [])

    @property
    def place(self) -> str:
        """The data set's, as messages name it."""
        return self._files.place

    def __len__(self) -> int:
        return self._shards.examples

    def read(self, start: int, stop: int, augmentation: PassAugmentation | None = None) -> Arrays:
        """Examples ``[start, stop)`` of the stored order; arrays are fresh, C-ordered, first axis the example.

        Skipped examples are not in it; where all are skipped, there are no arrays.

        Args:
            augmentation: that changes them; none where they are to be as they are.

        Raises:
            ShardError: a shard is missing, altered, or holds something else than the manifest says.
        """
        begin, end, columns = self._near
        # in the shard last read, all of it arrays: the usual case, kept short
        if begin <= start < stop <= end and augmentation is None and not len(self._left_out):
            arrays = {name: read(start - begin, stop - begin) for name, read in columns}
            self._bytes_read += sum([array.nbytes for array in arrays.values()])
            return arrays
        return self._assembler.collated(self._read(start, stop, augmentation))

    def _read(self, start: int, stop: int, augmentation: PassAugmentation | None) -> Arrays:
        """The same, not yet collated."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"examples [{start}, {stop}) of {len(self)}")
        if len(self._left_out) and ((start <= self._left_out) & (self._left_out < stop)).any():
            return self._take(np.arange(start, stop), augmentation)
        return _joined([self._rows(*piece, augmentation) for piece in self._shards.pieces(start, stop)])

    def _rows(self, number: int, first: int, last: int, augmentation: PassAugmentation | None) -> Arrays:
        """Rows ``[first, last)`` of one shard."""
        begin, end, opened = self._opened.find(number, first, last)
        first, last = first + self._shards.start(number) - begin, last + self._shards.start(number) - begin
        if opened.encoded or self._by_example(augmentation):
            arrays = self._decoded(number, begin, opened, np.arange(first, last), augmentation)[0]
        else:
            columns: list[tuple[str, Callable[[int, int], NDArray[Any]]]]
            columns = [(name, column.read) for name, column in opened.fixed.items()]
            if not len(self._left_out):
                self._near = (begin, begin + opened.until_left(last, end - begin), columns)
            arrays = {name: read(first, last) for name, read in columns}
            self._bytes_read += _bytes(arrays)
        opened.leave(last)
        return arrays

    def expect(self, runs: Sequence[tuple[int, int]]) -> None:
        """Says that only these examples, disjoint runs, will be read: of a shard behind a URL that has others too,
        only its part is fetched then. What is read in spite of that costs the whole shard.
        """
        runs = sorted(runs)
        if self._files.in_parts and runs != self._opened.wanted:
            self._opened.expect(runs)
            self._near = (0, 0, [])

    def follow(self, selections: Iterable[Selection]) -> None:
        """Says which selections come from now on, in their order: where examples lie apart behind a URL, what to fetch
        and to keep follows from that. Others may still be asked for.
        """
        self._opened.follow(selections)
        self._near = (0, 0, [])

    def leave_out(self, skips: Mapping[int, Skip]) -> None:
        """Passes over these examples, by their stored number, without a look at them."""
        self.skipped |= skips
        self._near = (0, 0, [])
        self._left_out = np.array(sorted(skips), np.int64)

    def where(self, number: int) -> str:
        """Example ``number`` as messages name it."""
        _, _, key = self.locate(number)
        return f"{self._where(self._shards.holding(number))}, example {key!r}"

    def extend(self, manifest: Manifest) -> None:
        """Goes on with a data set that has grown: the shards that were there have stayed as they were."""
        self._shards = manifest.splits[self._split].shards
        self._opened.extend(self._shards)

    def select(self, selection: Selection, augmentation: Augmentation | None = None) -> Arrays:
        """A selection's examples, in its order, augmented as in its pass, collated together; as `read` otherwise."""
        of_pass = None if augmentation is None else augmentation.in_pass(selection.pass_index)
        if selection.numbers is not None:
            if augmentation is None or selection.passes is None:
                return self._assembler.collated(self._take(selection.numbers, of_pass, followed=True))
            return self._assembler.collated(self._take_passes(selection.numbers, selection.passes, augmentation))
        if len(selection.runs) == 1:
            return self.read(*selection.runs[0], of_pass)
        read = self._read if self.collates else self.read
        return self._assembler.collated(_joined([read(start, stop, of_pass) for start, stop in selection.runs]))

    @property
    def collates(self) -> bool:
        """Whether examples may differ in shape, and batches with them."""
        return self._decoding.collate is not None

    def collating(self, collate: Collate | None) -> Reader:
        """A reader of the same open shards, which notes the same skips, and collates so."""
        other = copy.copy(self)
        other._decoding = replace(self._decoding, collate=collate)
        other._assembler = Assembler(other._decoding)
        other._near = (0, 0, [])
        return other

    def unmapped(self) -> Reader:
        """A reader of the same open shards that gives examples as `map` gets them, each by itself."""
        other = copy.copy(self)
        other._decoding = replace(self._decoding, map=None, collate=None)
        other._assembler = Assembler(other._decoding)
        other._near = (0, 0, [])
        return other

    @property
    def loose(self) -> frozenset[str]:
        """Fields as they are stored whose examples may differ in size: all but arrays that are noted to have one."""
        return frozenset(
            field.name for field in self._fields if field.shape is None or not field.member.endswith(".npy")
        )

    @property
    def skips(self) -> dict[tuple[str, int], Skip]:
        """``skipped`` with the split's name."""
        return {(self._split, number): skip for number, skip in self.skipped.items()}

    @property
    def loading(self) -> Loading:
        """What reading has cost so far."""
        health = self._files.health()
        return replace(health, bytes_read=self._bytes_read, skipped=len(self.skipped))

    def take(self, numbers: NDArray[np.int64], augmentation: PassAugmentation | None = None) -> Arrays:
        """The same for any examples, in the order of ``numbers``."""
        return self._assembler.collated(self._take(numbers, augmentation))

    def _take_passes(self, numbers: NDArray[np.int64], passes: NDArray[np.int64], augmentation: Augmentation) -> Arrays:
        """The same where each example has a pass of its own."""
        pieces = []
        places = []
        for own in np.unique(passes).tolist():
            at = np.flatnonzero(passes == own)
            piece, good = self._take_good(numbers[at], augmentation.in_pass(own))
            pieces.append(piece)
            places.append(at[good])
        return _in_order(pieces, places)[0]

    def _take(
        self, numbers: NDArray[np.int64], augmentation: PassAugmentation | None, *, followed: bool = False
    ) -> Arrays:
        """The same, not yet collated."""
        return self._take_good(numbers, augmentation, followed=followed)[0]

    def _take_good(
        self, numbers: NDArray[np.int64], augmentation: PassAugmentation | None, *, followed: bool = False
    ) -> tuple[Arrays, NDArray[np.int64]]:
        """The same, with the places in ``numbers`` of those that are in it."""
        there = np.flatnonzero(~np.isin(numbers, self._left_out))
        pieces = []
        places = []
        for number, at, begin, opened in self._opened.apart(numbers, there, followed=followed):
            rows = numbers[at] - begin
            if opened.encoded or self._by_example(augmentation):
                piece, good = self._decoded(number, begin, opened, rows, augmentation)
                at = at[good]
            else:
                piece = {name: column.take(rows) for name, column in opened.fixed.items()}
                self._bytes_read += _bytes(piece)
            pieces.append(piece)
            places.append(at)
        return _in_order(pieces, places)

    def samples(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Examples ``[start, stop)`` as WebDataset's readers give them: the members' bytes by extension."""
        for number, first, last in self._shards.pieces(start, stop):
            begin, _, opened = self._opened.find(number, first, last)
            first, last = first + self._shards.start(number) - begin, last + self._shards.start(number) - begin
            members = {name: column.encoded(first, last) for name, column in opened.fixed.items()}
            url = self._where(number)
            for row in range(first, last):
                sample: dict[str, Any] = {"__key__": opened.key(row), "__url__": url}
                sample |= {f.member: members[f.name][row - first] for f in self._fields if f.name in members}
                sample |= {field.member: column.member(row).tobytes() for _, field, column in opened.encoded}
                yield sample
            opened.leave(last)

    def first_good(self, augmentation: Augmentation | None = None) -> Arrays:
        """The first example that is not skipped, alone, of those expected before all others: it shows the form of all.

        Raises:
            ShardError: there is none among the first thousand.
        """
        runs = (range(*run) for run in [*self._opened.wanted, (0, len(self))])
        for number in itertools.islice(itertools.chain.from_iterable(runs), FIRST_LOOKED_AT):
            arrays = self.select(Selection(0, ((number, number + 1),)), augmentation)
            if arrays:
                return arrays
        expected, found = "a readable example", f"{min(len(self), FIRST_LOOKED_AT)} bad ones from the first on"
        raise ShardError(complaint(self._files.place, expected=expected, found=found, do="mend data.map or the data"))

    def locate(self, number: int) -> tuple[Shard, int, str]:
        """The shard of example ``number``, its row there, and its key."""
        index = self._shards.holding(number)
        row = number - self._shards.start(index)
        begin, _, opened = self._opened.find(index, row, row + 1)
        return self._shards[index], row, opened.key(number - begin)

    def _by_example(self, augmentation: PassAugmentation | None) -> bool:
        """Whether something has to see every example by itself."""
        return self._decoding.map is not None or augmentation is not None or self.collates

    def _decoded(
        self,
        number: int,
        begin: int,
        opened: OpenShard,
        rows: NDArray[np.int64],
        augmentation: PassAugmentation | None,
    ) -> tuple[Arrays, NDArray[np.int64]]:
        """Rows of what is open of a shard, from example ``begin`` on; and which of ``rows`` are good, by place."""
        where = self._where(number)
        by_example = self._by_example(augmentation)
        fixed = {name: column.take(rows) for name, column in opened.fixed.items()}
        self._bytes_read += _bytes(fixed)
        made = []
        for at, row in enumerate(rows.tolist()):
            members = {
                name: Member(column.member(row), self._decoder(field), field.member, _varies(field))
                for name, field, column in opened.encoded
            }
            values = {name: array[at] for name, array in fixed.items()} if by_example else {}
            made.append(Row(values, members, f"{where}, example {opened.key(row)!r}", begin + row))
            self._bytes_read += sum(len(member.data) for member in members.values())
        arrays, bad = self._assembler.batch(made, augmentation)
        if bad:
            self.skipped |= {begin + int(rows[at]): skip for at, skip in bad.items()}
        good = np.array([at for at in range(len(rows)) if at not in bad], np.int64)
        if by_example or not arrays:
            return arrays, good
        return {**{name: array[good] if bad else array for name, array in fixed.items()}, **arrays}, good

    def _decoder(self, field: Field) -> Decoder:
        """Of a field as it is stored, which may differ between the data sets of a mixture."""
        found = self._decoders.get((field.name, field.member))
        if found is None:
            found = decoder_of(field.member, self._decoding.image_form, self._bounds[field.name])
            self._decoders[field.name, field.member] = found
        return found

    def _where(self, index: int) -> str:
        """A shard as messages name it."""
        return self._opened.where(index)


def _joined(pieces: Sequence[Arrays]) -> Arrays:
    pieces = [piece for piece in pieces if piece]
    if len(pieces) <= 1:
        return pieces[0] if pieces else {}
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _in_order(pieces: Sequence[Arrays], places: Sequence[NDArray[np.int64]]) -> tuple[Arrays, NDArray[np.int64]]:
    """Pieces joined by the place of each of their examples, and these places; empty where they all are."""
    if not any(pieces):
        return {}, np.empty(0, np.int64)
    back = np.argsort(np.concatenate(places), kind="stable")
    return {name: array[back] for name, array in _joined(pieces).items()}, np.concatenate(places)[back]


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

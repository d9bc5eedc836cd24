"""What of a split's shards is open: mapped files with the rows that lanes are in, as many as the files allow at once.

Of a shard behind a URL that others read too, only the rows are fetched that are expected here.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.index import ShardIndex
from streamtrain.shards.manifest import Field, Manifest
from streamtrain.shards.shard_list import Shard, ShardList
from streamtrain.stream.columns.indexes import find_index, index_in_memory
from streamtrain.stream.columns.loose_blocks import has_any_size, loose_columns
from streamtrain.stream.columns.mapped_pages import SMALL, Pages
from streamtrain.stream.columns.open_shard import (
    Bytes,
    OpenShard,
    block_columns,
    encoded_columns,
    fixed_columns,
    map_shard,
)
from streamtrain.stream.columns.planned_rows import PlannedRows
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.shard_files import ShardFiles, ShardRows
from streamtrain.values import Selection


class Opened(NamedTuple):
    """A mapped file: its columns, the rows of a shard that it holds, and the example at which these end for a lane."""

    columns: OpenShard
    rows: ShardRows
    end: int


class OpenRows:
    """Opens rows when they are asked for, and closes those that were used longest ago.

    For several threads: a loop may look at single examples while another thread reads its minibatches ahead.

    Args:
        fields: that are read.

    Attributes:
        wanted: the runs of examples that will be read; none where that is not known.
    """

    def __init__(self, files: ShardFiles, manifest: Manifest, split: str, fields: Sequence[Field]) -> None:
        self._files = files
        self._block = manifest.block
        self._loose = any(has_any_size(field) for field in manifest.fields)
        self.extend(manifest.splits[split].shards)
        self._fields = tuple(fields)
        self.wanted: list[tuple[int, int]] = []
        self._open: OrderedDict[tuple[int, int], Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._coming: Iterable[Selection] | None = None
        self._planned: PlannedRows | None = None

    def expect(self, runs: list[tuple[int, int]]) -> None:
        """Closes all; from now on these runs, in order, are wanted."""
        with self._lock:
            for opened in self._open.values():
                self._files.release(opened.rows)
            self._open.clear()
            self.wanted = runs

    def follow(self, selections: Iterable[Selection]) -> None:
        """Says which selections come from now on, in their order, for those whose examples lie `apart`."""
        with self._lock:
            self._end_plan()
            self._coming = selections

    def apart(
        self, numbers: NDArray[np.int64], good: NDArray[np.int64], *, followed: bool = False
    ) -> Iterator[tuple[int, NDArray[np.int64], int, OpenShard]]:
        """What is open with these examples in it: shard, places in ``numbers``, the first example that it has, columns.

        Args:
            good: places of those that are wanted.
            followed: whether they are a selection's, which may be one that `follow` was told of.
        """
        if followed and self._coming is not None and isinstance(self._files, FetchedFiles):
            self.expect([])
            self._planned = PlannedRows(self._files, self._shards, self._coming)
            self._coming = None
        planned = self._planned.found(numbers) if followed and self._planned is not None else None
        if planned is not None:
            is_good = np.zeros(len(numbers), bool)
            is_good[good] = True
            for index, rows, places, data in planned:
                at = places[is_good[places]]
                if len(at):
                    yield index, at, self._shards.start(index) + rows.first, self._in_memory(index, rows, data)
            return
        shards = np.array([self._shards.holding(number) for number in numbers[good].tolist()])
        for index in np.unique(shards).tolist():
            at = good[shards == index]
            begin, _, opened = self._found(index, numbers[at] - self._shards.start(index))
            yield index, at, begin, opened

    def _found(self, index: int, rows: NDArray[np.int64]) -> tuple[int, int, OpenShard]:
        return self.find(index, int(rows.min()), int(rows.max()) + 1)

    def extend(self, shards: ShardList) -> None:
        """Goes on with a split that has more shards."""
        self._shards = shards
        self._is_small = sum(shards.sizes) <= SMALL

    def find(self, index: int, first: int, last: int) -> tuple[int, int, OpenShard]:
        """What is open with the rows ``[first, last)`` of a shard in it: its examples' begin and end, and columns."""
        if self._planned is not None and isinstance(self._files, FetchedFiles):  # which has all the room there is
            start, shard = self._shards.start(index), self._shards[index]
            known = self._files.index_of(shard)
            first, last = (0, shard.examples) if known is None else known.whole_samples(first, last, shard.examples)
            rows = ShardRows(shard, first, last)
            opened = self._in_memory(index, rows, np.frombuffer(self._files.read(rows), np.uint8))
            return start + first, start + last, opened
        with self._lock:
            return self._find(index, first, last)

    def _find(self, index: int, first: int, last: int) -> tuple[int, int, OpenShard]:
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
        if whole in self._open or not self.wanted:
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
        runs = self.wanted or [(0, self._shards.examples)]
        at = bisect.bisect_right(runs, example, key=lambda run: run[0]) - 1
        return runs[at] if at >= 0 and example < runs[at][1] else (example, example)

    def where(self, index: int) -> str:
        """A shard as messages name it."""
        return f"{self._files.place}/{self._shards.file(index)}"

    def _columns(self, index: int, rows: ShardRows) -> OpenShard:
        shard = rows.as_shard
        where = self.where(index)
        path = self._files.hold(rows)
        mapped = map_shard(path, where)
        data = np.frombuffer(mapped, np.uint8)
        opened = self._laid_out(where, data, shard, lambda samples: find_index(shard, path, where, len(data), samples))
        if not self._is_small:
            opened.pages = Pages(mapped, shard.examples)
        return opened

    def _in_memory(self, index: int, rows: ShardRows, data: Bytes) -> OpenShard:
        """Columns of rows whose bytes are there, as those of a shard of their own."""
        assert isinstance(self._files, FetchedFiles)
        known = self._files.index_of(rows.shard)

        def find(samples: int) -> ShardIndex:
            if known is not None and not known.stride:
                return known.part(rows.first, rows.last, rows.shard.examples)
            return index_in_memory(data, self.where(index), samples)

        return self._laid_out(self.where(index), data, rows.as_shard, find)

    def _laid_out(self, where: str, data: Bytes, shard: Shard, find: Callable[[int], ShardIndex]) -> OpenShard:
        """Columns of a shard, by its index where one is needed for that: ``find`` has one of so many samples."""
        if self._block is not None and self._loose:
            return loose_columns(where, data, find(-(-shard.examples // self._block)), shard, self._block, self._fields)
        if self._block is not None:
            return block_columns(where, data, shard, self._block, self._fields)
        fixed = fixed_columns(where, data, shard.examples, self._fields)
        return fixed or encoded_columns(where, data, find(shard.examples), self._fields)

    def _end_plan(self) -> None:
        if self._planned is not None:
            self._planned.close()
        self._planned = None
        self._coming = None

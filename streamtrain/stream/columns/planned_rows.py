"""Examples that lie apart, in an order that is known ahead: out of small parts of shards, fetched and kept by a plan.

A unit is some neighbours in one shard, the fewest that a request is worth: what is fetched and kept together. Costs the
index of every shard, and 24 bytes a unit.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamtrain.shards.shard_list import ShardList
from streamtrain.stream.fetch.fetched import FetchedFiles
from streamtrain.stream.fetch.planned import THREADS
from streamtrain.stream.fetch.shard_files import ShardRows
from streamtrain.values import Selection

UNIT = 1 << 17
"""Bytes: a request for fewer takes as long."""
MOST_UNITS = 1 << 22

Bytes = NDArray[np.uint8]
Expected: TypeAlias = "deque[tuple[bytes, int]]"
"""Of each selection that comes: its numbers, and how many units these are in."""


class Units(NamedTuple):
    """``firsts``: the first example of each, and the number of all; ``sizes``: bytes, as fetched."""

    firsts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The unit of each example."""
        return np.searchsorted(self.firsts, numbers, "right") - 1


class PlannedRows:
    """See the module.

    Args:
        selections: in the order in which they will be asked for; may be endless. Those that are runs do not count.
    """

    def __init__(self, files: FetchedFiles, shards: ShardList, selections: Iterable[Selection]) -> None:
        self._files = files
        self._shards = shards
        self.units = units_of(files, shards)
        self._expected: Expected = deque()
        self._is_between = True
        # neither knows this object: else its threads would keep it for good
        read = functools.partial(_read, files, shards, self.units)
        self._planned = files.planned(read, _uses(self.units, selections, self._expected), self.units.sizes.tolist())

    def found(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, ShardRows, NDArray[np.int64], Bytes]] | None:
        """Shard, rows, the places in ``numbers`` that are in them, and their bytes as a shard; for every unit.

        ``None`` where these are not the examples of the next selection, and where one before was not taken to its end,
        after which nobody knows what comes next.
        """
        if not self._is_between:
            return None
        if not self._expected:
            self._planned.begin_ahead()
        if not self._expected or self._expected[0][0] != numbers.tobytes():
            return None
        return self._next(numbers)

    def _next(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, ShardRows, NDArray[np.int64], Bytes]]:
        self._is_between = False
        _, count = self._expected.popleft()
        units = self.units.of(numbers)
        for _ in range(count):
            unit, data, was_there = self._planned.take()
            self._files.count(hit=was_there)
            yield *_rows(self._shards, self.units, unit), np.flatnonzero(units == unit), data
        self._is_between = True

    def close(self) -> None:
        """Ends what is under way, and keeps nothing."""
        self._planned.close()


def _read(files: FetchedFiles, shards: ShardList, units: Units, unit: int) -> memoryview | bytes:
    return files.read(_rows(shards, units, unit)[1])


def _rows(shards: ShardList, units: Units, unit: int) -> tuple[int, ShardRows]:
    first, last = int(units.firsts[unit]), int(units.firsts[unit + 1])
    number = shards.holding(first)
    start = shards.start(number)
    return number, ShardRows(shards[number], first - start, last - start)


def _uses(units: Units, selections: Iterable[Selection], expected: Expected) -> Iterator[int]:
    """The units of every selection, which is noted in ``expected``; no more where a second pass still is of runs."""
    pass_of_runs = None
    for selection in selections:
        if selection.numbers is not None:
            used = np.unique(units.of(selection.numbers)).tolist()
            expected.append((selection.numbers.tobytes(), len(used)))
            yield from used
        elif selection.runs:
            if pass_of_runs not in (None, selection.pass_index):
                return
            pass_of_runs = selection.pass_index


def units_of(files: FetchedFiles, shards: ShardList) -> Units:
    """The units of a split: its smaller shards whole, of the others some neighbours each.

    Raises:
        StoreError: an index could not be had.
    """
    size = max(UNIT, sum(shards.sizes) // MOST_UNITS)
    numbers = range(len(shards))
    with ThreadPoolExecutor(THREADS) as threads:
        cut = list(threads.map(lambda number: _cut(files, shards, number, size), numbers))
    firsts = [borders[:-1] + shards.start(number) for number, (borders, _) in zip(numbers, cut, strict=True)]
    return Units(np.concatenate([*firsts, [shards.examples]]), np.concatenate([sizes for _, sizes in cut]))


def _cut(files: FetchedFiles, shards: ShardList, number: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Borders of a shard's units, by its rows, and their bytes."""
    shard = shards[number]
    index = files.index_of(shard)
    borders = np.array([0, shard.examples]) if index is None else index.borders(shard.examples, size)
    if index is None or len(borders) == 2:
        return borders, np.array([shard.bytes])
    pairs = zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    return borders, np.array([files.bytes_of(ShardRows(shard, first, last)) for first, last in pairs])

"""Small parts of shards in the order of a plan: fetched ahead into memory, kept in a file of blocks, gathered from it.

Made for orders that go to and fro over a data set, as all examples permuted: what is used soon again stays, the
farthest leaves (`farthest`). The file lies in the cache's folder, counts as its own, and is its owner's alone; what a
killed one left is cleared away as all that is unfinished is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import StoreError, complaint, one_line
from streamtrain.store.direct import Bytes
from streamtrain.stream.fetch.farthest import LOOKED_AHEAD, Visit, visits

BLOCK = 1 << 13
"""Bytes: what is kept takes as many whole blocks as it needs, wherever they lie; so nothing is ever moved."""
AHEAD_BYTES = 32 << 20
"""What has been fetched ahead and is not used yet, in memory."""
THREADS = 8
MOST_AHEAD = 4096

Tasks: TypeAlias = "queue.SimpleQueue[tuple[Future[Bytes], int] | None]"


class BlockFile:
    """Contents of any size by number, in blocks of a file.

    Args:
        file: that is there, of a whole number of blocks.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened = file.open("r+b", buffering=0)
        size = file.stat().st_size
        mapped = mmap.mmap(self._opened.fileno(), size, access=mmap.ACCESS_READ)
        self._blocks = np.frombuffer(mapped, np.uint8).reshape(-1, BLOCK)
        self._free = np.arange(len(self._blocks))[::-1].copy()
        self._free_count = len(self._free)
        self._places: dict[int, tuple[NDArray[np.int64], int]] = {}

    def write(self, number: int, content: Bytes) -> None:
        """Keeps a content; there is room for it.

        Raises:
            StoreError: the disk is full.
        """
        size = len(content)
        self._free_count -= blocks_of(size)
        blocks = self._free[self._free_count : self._free_count + blocks_of(size)][::-1].copy()
        taken = blocks.tolist()
        rest = memoryview(content)
        try:
            for first, last in _runs(taken):
                part = rest[first * BLOCK : last * BLOCK]
                # not through the map: a full disk would end the process there
                _write_all(self._opened.fileno(), part, taken[first] * BLOCK)
        except OSError as error:
            do = "make room there, or set data.cache"
            place = str(self._file)
            raise StoreError(complaint(place, expected="to keep a part", found=one_line(error), do=do)) from None
        self._places[number] = blocks, size

    def read(self, number: int) -> NDArray[np.uint8]:
        """A kept content, copied."""
        blocks, size = self._places[number]
        return self._blocks[blocks].reshape(-1)[:size]

    def drop(self, number: int) -> None:
        """Lets go of a content."""
        blocks, _ = self._places.pop(number)
        self._free[self._free_count : self._free_count + len(blocks)] = blocks[::-1]
        self._free_count += len(blocks)

    def close(self) -> None:
        """Closes the file; it stays where it is."""
        self._opened.close()


def blocks_of(size: int) -> int:
    """Blocks that a content takes."""
    return -(-size // BLOCK)


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    """Where blocks follow each other: places of the first and after the last."""
    first = 0
    for at in range(1, len(blocks) + 1):
        if at == len(blocks) or blocks[at] != blocks[at - 1] + 1:
            yield first, at
            first = at


def _write_all(file: int, content: memoryview, place: int) -> None:
    while content:
        written = os.pwrite(file, content, place)
        content = content[written:]
        place += written


class PlannedUnits:
    """See the module.

    Args:
        fetch: a unit's bytes, checked; called by several threads.
        sizes: how many they are, of every unit.
        uses: units in the order of their use; may be endless.
        kept: where those stay that are used again, if there is such a place.
        room: bytes of it, in whole blocks.
        looked_ahead: uses, see `visits`.
        end: what to do in the end.
    """

    def __init__(
        self,
        fetch: Callable[[int], Bytes],
        sizes: Sequence[int],
        uses: Iterable[int],
        kept: BlockFile | None,
        room: int,
        looked_ahead: int = LOOKED_AHEAD,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._kept = kept
        self._sizes = sizes
        self._plan = visits(uses, lambda unit: BLOCK * blocks_of(sizes[unit]), room, looked_ahead)
        self._begun: deque[tuple[Visit, Future[Bytes] | None]] = deque()
        self._ahead = 0
        tasks: Tasks = queue.SimpleQueue()
        self._tasks = tasks
        self._end = weakref.finalize(self, _end, tasks, end)
        for _ in range(THREADS):
            threading.Thread(target=_fetch, args=(fetch, tasks), name="planned", daemon=True).start()

    def take(self) -> tuple[int, NDArray[np.uint8], bool]:
        """The next unit of the plan, its bytes, and whether it was there.

        Raises:
            IndexError: there is none. StoreError: it could not be had.
        """
        self.begin_ahead()
        visit, coming = self._begun.popleft()
        if self._kept is not None:
            for unit in visit.leaving:
                self._kept.drop(unit)
            if coming is None:
                return visit.unit, self._kept.read(visit.unit), True
        assert coming is not None, "without room nothing is kept"
        was_there = coming.done()
        content = coming.result()
        self._ahead -= self._sizes[visit.unit]
        if visit.stays and self._kept is not None:
            self._kept.write(visit.unit, content)
        return visit.unit, np.frombuffer(content, np.uint8), was_there

    def close(self) -> None:
        """Ends what is under way."""
        self._end()
        for _, coming in self._begun:
            if coming is not None:
                coming.cancel()

    def begin_ahead(self) -> None:
        """Asks for what comes next, as far as it may be fetched ahead."""
        while len(self._begun) < MOST_AHEAD and (self._ahead < AHEAD_BYTES or not self._begun):
            visit = next(self._plan, None)
            if visit is None:
                return
            coming: Future[Bytes] | None = Future() if visit.comes else None
            self._begun.append((visit, coming))
            if coming is not None:
                self._ahead += self._sizes[visit.unit]
                self._tasks.put((coming, visit.unit))


def _fetch(fetch: Callable[[int], Bytes], tasks: Tasks) -> None:
    while (task := tasks.get()) is not None:
        coming, unit = task
        if coming.set_running_or_notify_cancel():
            try:
                coming.set_result(fetch(unit))
            except BaseException as error:
                coming.set_exception(error)
        del task, coming


def _end(tasks: Tasks, end: Callable[[], None]) -> None:
    for _ in range(THREADS):
        tasks.put(None)
    with contextlib.suppress(FileNotFoundError):  # at a process's end the cache may have been removed
        end()

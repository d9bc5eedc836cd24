"""Batches from a streamer's process to a worker's, through a ring in shared memory, without a call between them.

One writer, one reader. The writer fills slot ``n mod depth`` and counts up ``filled``; the reader
copies it out and counts up ``taken``. Who waits sleeps, the longer the longer it has waited: the cores are wanted by
whom it waits for. A dead or failed writer is noticed. Beside its batches the writer leaves what they have cost.

A slot begins with the sizes of the batch's arrays. Where a slot lies, the ring's head says: a batch that is larger than
its slot gets a larger one behind all others, and the old one's memory is given back.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from streamtrain.errors import WorkerLost
from streamtrain.memory_order import publish, take_part
from streamtrain.processes import open_lent, watch
from streamtrain.values import Arrays, Loading

LINE = 64
WORD = 8
COUNTS = 2
"""Where the writer's line holds the counts of `Loading`, after its two words."""
SLEEP_SECONDS, LONGEST_SLEEP, LONGER = 100e-6, 2e-3, 1.125
"""Of whoever waits: each sleep is about an eighth of all before it. Always the shortest took 9.4 % of a core, these
take 2.7 % where a batch comes every 37 ms (2026-11-30)."""
LOOK_EVERY = 50


@dataclass(frozen=True)
class RingShape:
    """What a ring holds: ``depth`` slots of at most ``examples`` examples of these fields (dtype, shape of one).

    Where it ``varies``, a batch's arrays may have other sizes than these, along as many axes.
    """

    depth: int
    examples: int
    fields: Mapping[str, tuple[str, tuple[int, ...]]]
    varies: bool = False

    @property
    def sizes(self) -> list[int]:
        """Of the largest batch of such examples: its arrays' axes, field after field."""
        return [size for _, shape in self.fields.values() for size in (self.examples, *shape)]

    def sizes_of(self, arrays: Arrays) -> list[int]:
        """The same of a batch; all 0 where it has no arrays."""
        return [size for name in self.fields for size in arrays[name].shape] if arrays else [0] * len(self.sizes)

    @property
    def head_bytes(self) -> int:
        """Bytes before the first slot: the writer's line, the reader's, and for each slot where it lies."""
        return _paged(LINE * (2 + self.depth))

    def slot_bytes(self, sizes: Sequence[int]) -> int:
        """Bytes of a slot that holds a batch of these sizes."""
        return self.first_byte + sum(_bytes(dtype, shape) for _, dtype, shape in self.forms(sizes))

    @property
    def first_byte(self) -> int:
        """Where in a slot the first array lies, behind the sizes."""
        return _padded(WORD * len(self.sizes))

    def forms(self, sizes: Sequence[int]) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        """Name, type and shape of every field's array."""
        left = iter(sizes)
        for name, (dtype, shape) in self.fields.items():
            yield name, np.dtype(dtype), tuple(itertools.islice(left, 1 + len(shape)))


class Slot:
    """One slot's memory: the sizes of the batch in it, then its arrays."""

    def __init__(self, shape: RingShape, descriptor: int, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size
        self.memory = mmap.mmap(descriptor, size, offset=offset)
        self._shape = shape
        self._head = np.frombuffer(self.memory, np.int64, len(shape.sizes))
        self._seen: list[int] = []
        self._views: Arrays = {}

    def lay_out(self, sizes: list[int]) -> Arrays:
        """Arrays of these sizes, to write a batch into."""
        self._head[:] = sizes
        return self.views()

    def views(self) -> Arrays:
        """The arrays of the batch that is in it; made anew only where its sizes are others than the last one's."""
        head = self._head.tolist()
        if head != self._seen:
            offset = self._shape.first_byte
            self._views = {}
            for name, dtype, shape in self._shape.forms(head):
                self._views[name] = np.ndarray(shape, dtype, buffer=self.memory, offset=offset)
                offset += _bytes(dtype, shape)
            self._seen = head
        return self._views if head[0] else {}


@dataclass(frozen=True)
class RingHandle:
    """Names a ring to another process of the same host."""

    process: int
    descriptor: int
    shape: RingShape


class RingWriter:
    """The streamer's end; makes the memory, which is gone with the last process that maps it."""

    def __init__(self, shape: RingShape) -> None:
        take_part()
        descriptor = os.memfd_create("streamtrain-ring", os.MFD_CLOEXEC)
        self.handle = RingHandle(os.getpid(), descriptor, shape)
        self._shape = shape
        self._end = shape.head_bytes
        os.ftruncate(descriptor, self._end)
        self._words = memoryview(mmap.mmap(descriptor, self._end)).cast("q")
        self._lock = threading.Lock()
        self._closed = False
        first = shape.slot_bytes(shape.sizes)
        self._slots = [self._make_slot(number, first) for number in range(shape.depth)]

    def close(self) -> None:
        """No other process can open it any more; who has, reads on."""
        with self._lock:
            self._closed = True
            os.close(self.handle.descriptor)

    def put(self, arrays: Arrays, stopped: Callable[[], bool]) -> bool:
        """Waits for a free slot and fills it; ``False`` if ``stopped()`` came true first."""
        filled = self._words[0]
        sleeps = _longer_sleeps()
        while filled - self._words[LINE // WORD] >= self._shape.depth:
            if stopped():
                return False
            next(sleeps)
        sizes = self._shape.sizes_of(arrays)
        slot = self._slot_for(filled % self._shape.depth, sizes)
        if slot is None:
            return False
        views = slot.lay_out(sizes)
        for name, array in arrays.items():
            views[name][...] = array
        publish()  # the batch, before it is counted
        self._words[0] = filled + 1
        return True

    def _slot_for(self, number: int, sizes: Sequence[int]) -> Slot | None:
        """A slot, made larger where it has to be; none where the ring was closed before."""
        slot = self._slots[number]
        if not self._shape.varies:
            return slot
        with self._lock:  # another file might have the descriptor's number once it is closed
            room = self._shape.slot_bytes(sizes)
            if room <= slot.size:
                return slot
            if self._closed:
                return None
            slot.memory.madvise(mmap.MADV_REMOVE)  # nobody reads it: the slot is free
            self._slots[number] = self._make_slot(number, room)
            return self._slots[number]

    def _make_slot(self, number: int, room: int) -> Slot:
        """A slot behind all others, and a word to the reader where it lies."""
        size = _paged(room)
        os.ftruncate(self.handle.descriptor, self._end + size)
        slot = Slot(self._shape, self.handle.descriptor, self._end, size)
        place = LINE * (2 + number) // WORD
        self._words[place], self._words[place + 1] = self._end, size
        self._end += size
        return slot

    def note(self, loading: Loading) -> None:
        """Leaves what reading has cost so far for the worker to see."""
        for word, value in enumerate(astuple(loading)[1:], COUNTS):
            self._words[word] = value

    def fail(self) -> None:
        """No more will come: the reader raises once it has taken what is there."""
        publish()
        self._words[1] = 1


class RingReader:
    """The worker's end."""

    def __init__(self, handle: RingHandle) -> None:
        take_part()
        self._descriptor = open_lent(handle.process, handle.descriptor)
        self._shape = handle.shape
        self._words = memoryview(mmap.mmap(self._descriptor, handle.shape.head_bytes)).cast("q")
        self._slots: dict[int, Slot] = {}
        self._writer = watch(handle.process)
        self._poll = select.poll()
        self._poll.register(self._writer, select.POLLIN)

    def close(self) -> None:
        """Nothing more is taken."""
        os.close(self._writer)
        os.close(self._descriptor)

    def get(self) -> Arrays:
        """The next batch, as arrays of its own; no arrays where all its examples were skipped.

        Raises:
            WorkerLost: the streamer failed or died.
        """
        taken = self._words[LINE // WORD]
        sleeps = _longer_sleeps()
        while self._words[0] <= taken:
            slept = next(sleeps)
            gone = self._words[1] or (slept % LOOK_EVERY == 0 and self._poll.poll(0))
            if gone and self._words[0] <= taken:  # looked at again: the last batch may have come just before the end
                raise WorkerLost("the streamer failed or died before its next batch")
        views = self._slot(taken % self._shape.depth).views()
        arrays = {name: np.array(view) for name, view in views.items()}
        publish()  # all was read, before the slot is free
        self._words[LINE // WORD] = taken + 1
        return arrays

    def _slot(self, number: int) -> Slot:
        """A slot, where it lies by now."""
        place = LINE * (2 + number) // WORD
        offset = self._words[place]
        if number not in self._slots or self._slots[number].offset != offset:
            self._slots[number] = Slot(self._shape, self._descriptor, offset, self._words[place + 1])
        return self._slots[number]

    @property
    def ahead(self) -> int:
        """Batches that are there and not taken."""
        return int(self._words[0] - self._words[LINE // WORD])

    @property
    def loading(self) -> Loading:
        """What reading had cost the streamer when it last said so."""
        return Loading(0.0, *self._words[COUNTS : COUNTS + len(fields(Loading)) - 1])


def _longer_sleeps() -> Iterator[int]:
    """Sleeps each time that one is asked for, and counts them."""
    seconds = SLEEP_SECONDS
    for count in itertools.count(1):
        time.sleep(seconds)
        seconds = min(seconds * LONGER, LONGEST_SLEEP)
        yield count


def _bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """What an array takes in a slot."""
    return _padded(math.prod(shape) * dtype.itemsize)


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE


def _paged(size: int) -> int:
    """Of whole pages: memory is mapped by these."""
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY

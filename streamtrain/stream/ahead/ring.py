"""Batches from a streamer's process to a worker's, through a ring in shared memory, without a call between them.

One writer, one reader. The writer fills slot ``n mod depth`` and counts up ``filled``; the reader
copies it out and counts up ``taken``. Waiting is a short sleep; a dead or failed writer is noticed.
Beside its batches the writer leaves what they have cost.
"""

from __future__ import annotations

import mmap
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import WorkerLost
from streamtrain.processes import open_lent, watch
from streamtrain.values import Arrays, Loading

LINE = 64
COUNTS = 2
"""Where the writer's line holds the counts of `Loading`, after its two words."""
SLEEP_SECONDS = 100e-6
LOOK_EVERY = 50


@dataclass(frozen=True)
class RingShape:
    """What a ring holds: ``depth`` slots of at most ``examples`` examples of these fields (dtype, shape of one)."""

    depth: int
    examples: int
    fields: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot, its count included."""
        return LINE + sum(_padded(self._field_bytes(name)) for name in self.fields)

    @property
    def size(self) -> int:
        """Bytes of the whole ring."""
        return 2 * LINE + self.depth * self.slot_bytes

    def views(self, block: mmap.mmap, slot: int) -> tuple[NDArray[np.int64], Arrays]:
        """The slot's number of examples, shape (1,), and its arrays at full length."""
        offset = 2 * LINE + slot * self.slot_bytes
        count = np.frombuffer(block, np.int64, 1, offset)
        offset += LINE
        arrays: Arrays = {}
        for name, (dtype, shape) in self.fields.items():
            arrays[name] = np.ndarray((self.examples, *shape), dtype, buffer=block, offset=offset)
            offset += _padded(self._field_bytes(name))
        return count, arrays

    def _field_bytes(self, name: str) -> int:
        dtype, shape = self.fields[name]
        return self.examples * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


@dataclass(frozen=True)
class RingHandle:
    """Names a ring to another process of the same host."""

    process: int
    descriptor: int
    shape: RingShape


class RingWriter:
    """The streamer's end; makes the memory, which is gone with the last process that maps it."""

    def __init__(self, shape: RingShape) -> None:
        descriptor = os.memfd_create("streamtrain-ring", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, shape.size)
        self._block = mmap.mmap(descriptor, shape.size)
        self._shape = shape
        self._words = memoryview(self._block).cast("q")
        self._slots = [shape.views(self._block, slot) for slot in range(shape.depth)]
        self.handle = RingHandle(os.getpid(), descriptor, shape)

    def close(self) -> None:
        """No other process can open it any more; who has, reads on."""
        os.close(self.handle.descriptor)

    def put(self, arrays: Arrays, stopped: Callable[[], bool]) -> bool:
        """Waits for a free slot and fills it; ``False`` if ``stopped()`` came true first."""
        filled = self._words[0]
        while filled - self._words[LINE // 8] >= self._shape.depth:
            if stopped():
                return False
            time.sleep(SLEEP_SECONDS)
        count, views = self._slots[filled % self._shape.depth]
        examples = len(next(iter(arrays.values()))) if arrays else 0
        for name, array in arrays.items():
            views[name][:examples] = array
        count[0] = examples
        self._words[0] = filled + 1
        return True

    def note(self, loading: Loading) -> None:
        """Leaves what reading has cost so far for the worker to see."""
        for word, value in enumerate(astuple(loading)[1:], COUNTS):
            self._words[word] = value

    def fail(self) -> None:
        """No more will come: the reader raises once it has taken what is there."""
        self._words[1] = 1


class RingReader:
    """The worker's end."""

    def __init__(self, handle: RingHandle) -> None:
        descriptor = open_lent(handle.process, handle.descriptor)
        self._block = mmap.mmap(descriptor, handle.shape.size)
        os.close(descriptor)
        self._shape = handle.shape
        self._words = memoryview(self._block).cast("q")
        self._slots = [handle.shape.views(self._block, slot) for slot in range(handle.shape.depth)]
        self._writer = watch(handle.process)
        self._poll = select.poll()
        self._poll.register(self._writer, select.POLLIN)

    def close(self) -> None:
        """Nothing more is taken."""
        os.close(self._writer)

    def get(self) -> Arrays:
        """The next batch, as arrays of its own; no arrays where all its examples were skipped.

        Raises:
            WorkerLost: the streamer failed or died.
        """
        taken = self._words[LINE // 8]
        sleeps = 0
        while self._words[0] <= taken:
            time.sleep(SLEEP_SECONDS)
            sleeps += 1
            gone = self._words[1] or (sleeps % LOOK_EVERY == 0 and self._poll.poll(0))
            if gone and self._words[0] <= taken:  # looked at again: the last batch may have come just before the end
                raise WorkerLost("the streamer failed or died before its next batch")
        count, views = self._slots[taken % self._shape.depth]
        examples = int(count[0])
        arrays = {name: np.array(view[:examples]) for name, view in views.items()} if examples else {}
        self._words[LINE // 8] = taken + 1
        return arrays

    @property
    def ahead(self) -> int:
        """Batches that are there and not taken."""
        return int(self._words[0] - self._words[LINE // 8])

    @property
    def loading(self) -> Loading:
        """What reading had cost the streamer when it last said so."""
        return Loading(0.0, *self._words[COUNTS : COUNTS + len(fields(Loading)) - 1])


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE

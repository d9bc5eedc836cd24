"""Reads and decodes ahead of one worker, in a process of its own: a plain class, made an actor in `run`.

Worth its process only where decoding costs something; examples of fixed shape are read in the worker.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator

from streamtrain.stream.reader import Reader
from streamtrain.stream.ring import RingHandle, RingReader, RingShape, RingWriter
from streamtrain.values import Arrays, LanePart

DEPTH = 4
"""Batches decoded ahead."""


def parts_read(reader: Reader, parts: Iterable[LanePart]) -> Iterator[Arrays]:
    """The examples of every part, read in this process when asked for; empty parts are passed over."""
    return (reader.read(part.start, part.stop) for part in parts if part.examples)


def parts_streamed(handle: RingHandle) -> Iterator[Arrays]:
    """The same, from a streamer."""
    ring = RingReader(handle)
    return (ring.get() for _ in itertools.count())


class Streamer:
    """Fills a ring with the examples of ``parts``, in their order, ahead of the worker that empties it.

    Args:
        reader: of the split that ``parts`` number.
        parts: what the worker will ask for, in its order; may be endless.
        largest: examples of the largest part.
    """

    def __init__(self, reader: Reader, parts: Iterable[LanePart], largest: int) -> None:
        first = reader.read(0, 1)
        fields = {name: (array.dtype.str, array.shape[1:]) for name, array in first.items()}
        self._ring = RingWriter(RingShape(DEPTH, largest, fields))
        self._batches = parts_read(reader, parts)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="streamer", daemon=True)

    def start(self) -> RingHandle:
        """Begins to fill; returns what the worker opens the ring with."""
        self._thread.start()
        return self._ring.handle

    def failure(self) -> BaseException | None:
        """What stopped the filling, if anything did."""
        return self._failure

    def stop(self) -> None:
        """Ends the filling; returns when it has ended."""
        self._stopped.set()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for arrays in self._batches:
                if not self._ring.put(arrays, self._stopped.is_set):
                    return
        except BaseException as error:
            self._failure = error
            self._ring.fail()

"""Reads and decodes ahead of one worker, in a process of its own: a plain class, made an actor in `run`.

Worth its process only where decoding costs something; examples of fixed shape are read in the worker.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator

from streamtrain.stream.reader import Reader
from streamtrain.stream.ring import RingHandle, RingReader, RingShape, RingWriter
from streamtrain.values import Arrays, Selection, Skip

DEPTH = 4
"""Batches decoded ahead."""


def selections_read(reader: Reader, selections: Iterable[Selection]) -> Iterator[Arrays]:
    """The examples of every selection, read in this process when asked for."""
    return (reader.select(selection) for selection in selections)


def selections_streamed(ring: RingReader) -> Iterator[Arrays]:
    """The same, from a streamer."""
    return (ring.get() for _ in itertools.count())


class Streamer:
    """Fills a ring with the examples of ``selections``, in their order, ahead of the worker that empties it.

    Args:
        reader: of the split that ``selections`` number.
        selections: what the worker will ask for, in its order; may be endless.
        largest: examples of the largest selection.
    """

    def __init__(self, reader: Reader, selections: Iterable[Selection], largest: int) -> None:
        first = reader.first_good()
        fields = {name: (array.dtype.str, array.shape[1:]) for name, array in first.items()}
        self._ring = RingWriter(RingShape(DEPTH, largest, fields))
        self._reader, self._batches = reader, selections_read(reader, selections)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="streamer", daemon=True)

    def start(self) -> RingHandle:
        """Begins to fill; returns what the worker opens the ring with."""
        self._thread.start()
        return self._ring.handle

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""
        return self._reader.skips

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
                self._ring.note(self._reader.loading)
                if not self._ring.put(arrays, self._stopped.is_set):
                    return
        except BaseException as error:
            self._failure = error
            self._ring.fail()

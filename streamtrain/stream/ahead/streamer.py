"""Reads and decodes ahead of one worker, in a process of its own: a plain class, made an actor in `run`.

Worth its process only where decoding costs something; examples of fixed shape are read in the worker.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from streamtrain.errors import JobError, complaint
from streamtrain.stream.ahead.ring import RingHandle, RingReader, RingShape, RingWriter
from streamtrain.stream.ahead.tcp import WireHandle, WireReader, WireWriter
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays, Selection, Skip

DEPTH = 4
"""Batches decoded ahead; between two hosts, so many on either side."""
StreamHandle = RingHandle | WireHandle
"""Names a stream of batches to the worker."""


def selections_read(
    reader: Reader, selections: Iterable[Selection], augmentation: Augmentation | None = None
) -> Iterator[Arrays]:
    """The examples of every selection, read and augmented in this process when asked for."""
    return (reader.select(selection, augmentation) for selection in selections)


def selections_streamed(streams: Sequence[RingReader | WireReader]) -> Iterator[Arrays]:
    """The same, from streamers that have the selections in turn."""
    return (stream.get() for stream in itertools.cycle(streams))


def open_stream(handle: StreamHandle, lost_after: float) -> RingReader | WireReader:
    """The worker's end of a stream.

    Args:
        lost_after: seconds without a heartbeat from the streamer's host, where that is another.

    Raises:
        WorkerLost: the streamer is gone.
    """
    return WireReader(handle, lost_after) if isinstance(handle, WireHandle) else RingReader(handle)


class Streamer:
    """Fills a stream with the examples of ``selections``, in their order, ahead of the worker that empties it.

    Args:
        reader: of the split that ``selections`` number.
        selections: what the worker will ask for, in its order; may be endless.
        largest: examples of the largest selection.
        address: of this host, where the worker is on another.
        augmentation: of the examples.
        tell: takes the bad examples that were passed over so far, before each batch.

    Raises:
        JobError: a field is no array of numbers.
    """

    def __init__(
        self,
        reader: Reader,
        selections: Iterable[Selection],
        largest: int,
        address: str | None = None,
        augmentation: Augmentation | None = None,
        tell: Callable[[dict[tuple[str, int], Skip]], None] = lambda _: None,
    ) -> None:
        first = reader.first_good(augmentation)
        for name, array in first.items():
            if array.dtype.kind == "O":
                do = "turn it into an array in map, or leave the field out"
                raise JobError(complaint(f"streamers, field {name!r}", expected="arrays", found="objects", do=do))
        self._form = {name: (array.dtype.str, array.shape[1:]) for name, array in first.items()}
        self._varies = reader.collates
        shape = RingShape(DEPTH, largest, self._form, self._varies)
        self._stream = RingWriter(shape) if address is None else WireWriter(shape, address)
        self._reader = reader
        self._tell = tell
        self._batches = selections_read(reader, selections, augmentation)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="streamer", daemon=True)

    def start(self) -> StreamHandle:
        """Begins to fill; returns what the worker opens the stream with."""
        self._thread.start()
        return self._stream.handle

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over so far, by split and number in the stored order."""
        return self._reader.skips

    def failure(self) -> BaseException | None:
        """What stopped the filling, if anything did."""
        return self._failure

    def wait(self, seconds: float) -> bool:
        """Whether the filling has ended, within so long."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Ends the filling; returns when it has ended."""
        self._stopped.set()
        self._stream.close()
        self._thread.join()

    def _check_form(self, arrays: Arrays) -> None:
        """Refuses a batch of another form than the first example's: the stream would cut it, or spread it out.

        Where examples are collated, their sizes may be others.

        Raises:
            JobError: naming the field.
        """
        if arrays and arrays.keys() != self._form.keys():
            expected, found = f"the fields {', '.join(self._form)} as in the first one", ", ".join(arrays)
            do = "return the same ones from data.map and data.collate"
            raise JobError(complaint("streamers, a batch", expected=expected, found=found, do=do))
        for name, array in arrays.items():
            dtype, shape = self._form[name]
            same = array.ndim == 1 + len(shape) if self._varies else array.shape[1:] == shape
            if array.dtype.str != dtype or not same:
                expected = f"with {len(shape)} axes for an example" if self._varies else f"of shape {shape}"
                expected = f"{np.dtype(dtype)} {expected}"
                do = "bring all to one form in data.map, or by data.image_size and data.image_mode"
                where = f"streamers, field {name!r} of a batch"
                found = f"{array.dtype} of shape {array.shape[1:]}"
                raise JobError(complaint(where, expected=f"{expected} as in the first example", found=found, do=do))

    def _fill(self) -> None:
        try:
            for arrays in self._batches:
                self._check_form(arrays)
                self._stream.note(self._reader.loading)
                self._tell(self._reader.skips)
                if not self._stream.put(arrays, self._stopped.is_set):
                    return
        except BaseException as error:
            self._failure = error
            self._stream.fail()

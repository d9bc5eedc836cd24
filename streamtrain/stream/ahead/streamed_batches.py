"""Minibatches of `st.open` from processes of this host, which read, decode, map and augment ahead of the loop.

Each reads every so many-th minibatch, and they go on over the ends of passes. One that dies is replaced, and its batch
read again: the same bits, since a batch is a function of its position. Started by `multiprocessing`'s own method.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from streamtrain.errors import ConfigError, StreamtrainError, TrainingError, WorkerLost, complaint, one_line
from streamtrain.stream.ahead.ring import RingReader
from streamtrain.stream.ahead.streamer import Streamer
from streamtrain.stream.examples.augmenting import Augmentation
from streamtrain.stream.loops.own_reader import OwnReader
from streamtrain.values import Arrays, Position, Selection

LOOK_SECONDS, START_SECONDS = 0.2, 120.0
MOST_LOSSES = 3
"""Processes that may be lost over one minibatch."""


@dataclass(frozen=True)
class StreamersWork:
    """What the processes read.

    Attributes:
        own_reader: gives each its reader. select: the examples of a step of a pass, which has so many ``steps``.
        largest: examples of the largest selection.
        expected: all that they read, where that is no part of all.
    """

    own_reader: OwnReader
    select: Callable[[int, int], Selection]
    steps: int
    largest: int
    expected: list[tuple[int, int]]
    augmentation: Augmentation | None

    def selections(self, first: Position, begin: int, every: int) -> Iterator[Selection]:
        """From minibatch ``begin`` after ``first`` on, every so many-th, without an end."""
        before = first.pass_index * self.steps + first.step
        return (self.select(*divmod(before + number, self.steps)) for number in itertools.count(begin, every))


class Child:
    """One process and its stream."""

    def __init__(self, work: StreamersWork, first: Position, begin: int, every: int) -> None:
        context = multiprocessing.get_context()
        self.connection, theirs = context.Pipe()
        self._process: Any = context.Process(
            target=_serve, args=(work, first, begin, every, os.getpid(), theirs), daemon=True, name="streamer"
        )
        try:
            self._process.start()
        except Exception as error:  # what it raises for a function that cannot be pickled differs
            do = "define functions in a module, or use the start method fork"
            expected = "functions that can be sent to other processes"
            raise ConfigError(complaint("streamers", expected=expected, found=one_line(error), do=do)) from None
        theirs.close()
        self._end = weakref.finalize(self, _end, self._process)
        self._stream: RingReader | None = None
        self._skips: dict[tuple[str, int], Any] = {}

    def get(self) -> Arrays:
        """Its next batch.

        Raises:
            WorkerLost: the process is gone. StreamtrainError: what stopped its reading.
        """
        if self._stream is None:
            handle = self._answer("handle")
            self._stream = RingReader(handle)
        try:
            return self._stream.get()
        except WorkerLost:
            self._answer("failed")
            raise

    def close(self) -> None:
        """Ends it."""
        self._end()
        if self._stream is not None:
            self._stream.close()
        self.connection.close()

    def skips(self) -> dict[tuple[str, int], Any]:
        """Bad examples that it has passed over."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll(0):
                kind, value = self.connection.recv()
                if kind == "skips":
                    self._skips |= value
        return self._skips

    def _answer(self, wanted: str) -> Any:
        """Its next word of this kind.

        Raises:
            WorkerLost: there is none. StreamtrainError: its failure.
        """
        try:
            while self.connection.poll(START_SECONDS):
                kind, value = self.connection.recv()
                if kind == "failed":
                    raise value
                if kind == wanted:
                    return value
                self._skips |= value
        except (EOFError, OSError):
            pass
        raise WorkerLost("a streamer's process died")


class StreamedBatches:
    """The batches, in their order, from ``count`` processes; begun when they are first wanted."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._children: list[Child] = []
        self._first, self._next = Position(0, 0), 0

    def begin(self, work: StreamersWork, position: Position) -> None:
        """What is wanted next is the minibatch at a position; where it comes anyway, the processes go on."""
        comes = self._first.pass_index * work.steps + self._first.step + self._next
        if self._children and comes == position.pass_index * work.steps + position.step:
            return
        self.close()
        self._first, self._next = position, 0
        self._children = [Child(work, position, turn, self._count) for turn in range(self._count)]

    def get(self, work: StreamersWork) -> Arrays:
        """The next one; no arrays where all its examples were skipped.

        Args:
            work: as it began. Not kept here: whoever it comes from would never be let go of.

        Raises:
            StreamtrainError: what stopped a process; WorkerLost: one after the other died over this minibatch.
        """
        turn = self._next % self._count
        losses = 0
        while True:
            child = self._children[turn]
            try:
                arrays = child.get()
                break
            except WorkerLost:
                losses += 1
                if losses == MOST_LOSSES:
                    raise
                self._replace(work, turn)
        self._next += 1
        work.own_reader().skipped |= {number: skip for (_, number), skip in child.skips().items()}
        return arrays

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children:
            child.close()
        self._children = []

    def _replace(self, work: StreamersWork, turn: int) -> None:
        self._children[turn].close()
        self._children[turn] = Child(work, self._first, self._next, self._count)

    def __reduce__(self) -> tuple[type[StreamedBatches], tuple[int]]:
        return StreamedBatches, (self._count,)  # processes stay here


def _serve(
    work: StreamersWork, first: Position, begin: int, every: int, parent: int, connection: Connection[Any, Any]
) -> None:
    """A process's whole life."""
    _compute_alone()
    try:
        reader = work.own_reader()
        reader.expect(work.expected)
        told = len(reader.skips)

        def tell(skips: dict[tuple[str, int], Any]) -> None:
            nonlocal told
            if len(skips) != told:
                told = len(skips)
                connection.send(("skips", dict(skips)))

        selections, followed = (work.selections(first, begin, every) for _ in range(2))
        reader.follow(followed)
        streamer = Streamer(reader, selections, work.largest, augmentation=work.augmentation, tell=tell)
        connection.send(("handle", streamer.start()))
        while not streamer.wait(LOOK_SECONDS):
            if os.getppid() != parent:  # nobody will read, and nobody ends this process
                return
        failure: BaseException | None = streamer.failure()
    except BaseException as error:
        failure = error
    if failure is not None:
        known = isinstance(failure, StreamtrainError)
        connection.send(("failed", failure if known else TrainingError(f"streamer: {one_line(failure)}")))
    while os.getppid() == parent and not connection.poll(LOOK_SECONDS):  # the ring lives as long as this process
        pass


def _compute_alone() -> None:
    """Without the thread pools of libraries: after a fork their threads are not there, and waiting for them hangs."""
    import torch

    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)


def _end(process: Any) -> None:
    """Ends it at once: it holds nothing that has to be put in order."""
    process.kill()
    process.join()

"""Where a worker's examples come from: its own readers, and its streamers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamtrain.aggregate.moments import NoWeight, WrongWeight
from streamtrain.errors import JobError
from streamtrain.order import select_minibatch
from streamtrain.prepare.plan import Plan
from streamtrain.stream.ahead.ring import RingReader
from streamtrain.stream.ahead.streamer import StreamHandle, open_stream, selections_read, selections_streamed
from streamtrain.stream.ahead.tcp import WireReader
from streamtrain.stream.reader import Reader
from streamtrain.values import Arrays, Loading, Selection, Skip

TRAINING = ("train", "train of the lanes")


class Supply:
    """One worker's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._readers: dict[str, Reader] = {}
        self._streams: list[RingReader | WireReader] = []
        self._streamed = Loading()

    def begin(self, lanes: range, step: int, streams: Sequence[StreamHandle]) -> Iterator[Arrays]:
        """The parts of these lanes from global ``step`` on.

        Args:
            streams: of its streamers, who begin there too, and have the parts in turn; none where it reads itself.

        Raises:
            WorkerLost: a streamer is gone.
        """
        self._end_streams()
        if streams:
            for stream in streams:
                self._streams.append(open_stream(stream, self._plan.job.lost_after))
            return selections_streamed(self._streams)
        reader = self.reader("train", lanes=True)
        reader.expect(self._plan.left(lanes, step))
        reader.follow(self._plan.selections(lanes, step))
        return selections_read(reader, self._plan.selections(lanes, step), self._plan.augmentation)

    def part(self, selection: Selection) -> Arrays:
        """Examples that are read here and now, for a lane."""
        return self.reader("train", lanes=True).select(selection, self._plan.augmentation)

    def reader(self, split: str, *, lanes: bool = False) -> Reader:
        """The reader of a split, or the one that lanes' parts are read with."""
        name = f"{split} of the lanes" if lanes else split
        if name not in self._readers:
            self._readers[name] = self._plan.reader(split, lanes=lanes)
        return self._readers[name]

    def leave_out(self, plan: Plan) -> None:
        """Goes on without the examples that ``plan`` leaves out."""
        self._plan = plan
        for name in self._readers.keys() & set(TRAINING):
            self._readers[name].leave_out(plan.left_out)

    def extend(self, plan: Plan) -> None:
        """Goes on with a data set that has grown; `begin` comes next, where there are lanes."""
        self._plan = plan
        for name, reader in self._readers.items():
            if name not in plan.others:
                reader.extend(plan.manifest)

    def loading(self, waited: float) -> Loading:
        """What reading has cost so far, here and in the streamers; ``waited``: seconds that it was waited for."""
        own = sum((reader.loading for reader in self._readers.values()), Loading(waited=waited))
        return own + self._streamed + sum((stream.loading for stream in self._streams), Loading())

    def ahead(self) -> int:
        """Batches that are there from the streamers."""
        return sum(stream.ahead for stream in self._streams)

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that were passed over here, by split and number in the stored order."""
        others = self._plan.others
        return {
            (name if name in others else split, number): skip
            for name, reader in self._readers.items()
            for (split, number), skip in reader.skips.items()
        }

    def name_weights(
        self, error: WrongWeight | NoWeight, step: int, split: str = "train", chosen: NDArray[np.int64] | None = None
    ) -> JobError:
        """The same error, with the name of the example that it is of.

        Args:
            step: that was to be made.
            split, chosen: the examples by stored number, if they are of no lane.
        """
        if isinstance(error, NoWeight):
            first = select_minibatch(self._plan.order, self._plan.pass_orders, self._plan.order.position(step))
            return NoWeight(step, self._name("train", first.each(), 0))
        step = step if error.step < 0 else error.step
        if error.lane < 0:
            numbers = np.arange(len(self.reader(split))) if chosen is None else chosen
            return WrongWeight(error.index, error.weight, where=self._name(split, numbers, error.index))
        position = self._plan.order.position(step)
        part = self._plan.order.minibatch(position).parts[error.lane]
        numbers = self._plan.pass_orders.stored(position.pass_index, part.start, part.stop).each()
        where = self._name("train", numbers, error.index)
        return WrongWeight(error.index, error.weight, error.lane, step, where)

    def _name(self, split: str, numbers: NDArray[np.int64], index: int) -> str:
        """One of some examples, without those that are passed over, as messages name it."""
        passed = {number for of, number in self.skipped() if of == split}
        passed |= set(self._plan.left_out) if split == "train" else set()
        good = [number for number in numbers.tolist() if number not in passed]
        return self.reader(split).where(good[index])

    def _end_streams(self) -> None:
        for stream in self._streams:
            self._streamed += stream.loading
            stream.close()
        self._streams = []

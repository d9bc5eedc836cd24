"""A worker's streamer over a whole run: one `Streamer` after the other, for other lanes and from other steps.

A plain class, made an actor in `recruiting`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from streamtrain.prepare.plan import Plan
from streamtrain.stream.ahead.streamer import Streamer, StreamHandle
from streamtrain.values import Selection, Skip


class Share(NamedTuple):
    """What one of a worker's ``streamers`` reads: each part after the other is the next one's."""

    turn: int
    streamers: int

    def of(self, selections: Iterator[Selection]) -> Iterator[Selection]:
        """Its part."""
        return itertools.islice(selections, self.turn, None, self.streamers)


class WorkersStreamer:
    """Reads and decodes the parts of a worker's lanes ahead of it: a `Streamer` after the other."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._streamer: Streamer | None = None
        self._skipped: dict[tuple[str, int], Skip] = {}

    def extend(self, plan: Plan) -> None:
        """What is streamed from now on is of a data set that has grown."""
        self._plan = plan

    def stream(self, lanes: range, step: int, share: Share | None = None, address: str | None = None) -> StreamHandle:
        """Begins with these lanes' parts of global ``step``; whatever was streamed before ends.

        Args:
            share: which of the parts are this streamer's; all by default.
            address: of this host, where the worker is on another.
        """
        self.stop()
        plan = self._plan
        order = plan.order
        reader = plan.reader("train", lanes=True)
        reader.expect(plan.left(lanes, step))
        coming, followed = (plan.selections(lanes, step) for _ in range(2))
        reader.follow(followed if share is None else share.of(followed))
        self._streamer = Streamer(
            reader,
            coming if share is None else share.of(coming),
            largest=order.largest // order.lanes,
            address=address,
            augmentation=plan.augmentation,
        )
        return self._streamer.start()

    def stop(self) -> None:
        """Ends what is streamed."""
        if self._streamer is not None:
            self._skipped |= self._streamer.skipped()
            self._streamer.stop()
            self._streamer = None

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that all of them passed over so far, by split and number in the stored order."""
        return self._skipped | (self._streamer.skipped() if self._streamer is not None else {})

    def failure(self) -> BaseException | None:
        """What stopped the present one, if anything did."""
        return None if self._streamer is None else self._streamer.failure()

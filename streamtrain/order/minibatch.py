"""The minibatches of a pass, the short last one included.

Minibatch ``t`` takes the next ``batch_size / lanes`` examples of every lane (DESIGN, lane). Lane sizes
differ by at most one, so only the last minibatch can be short, and it holds just what is left.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from streamtrain.order.lanes import lane, lane_size
from streamtrain.values import Lane, LanePart, Minibatch, Position


@dataclass(frozen=True)
class Order:
    """Which examples every minibatch of a pass uses.

    Attributes:
        examples: number of examples in the stored order of the split.
        lanes: number of lanes.
        batch_size: examples of a full minibatch; a multiple of ``lanes``.
        used: examples that a pass uses, the first of every lane; all of them by default.
    """

    examples: int
    lanes: int
    batch_size: int
    used: int = -1

    def __post_init__(self) -> None:
        if self.used == -1:
            object.__setattr__(self, "used", self.examples)
        if not (0 < self.used <= self.examples and self.lanes > 0 and self.batch_size > 0):
            raise ValueError(f"no order over {self}")
        if self.batch_size % self.lanes:
            raise ValueError(f"batch size {self.batch_size} does not divide by {self.lanes} lanes")

    @functools.cached_property
    def steps(self) -> int:
        """Minibatches of one pass."""
        per_lane = self.batch_size // self.lanes
        return -(-lane_size(self.used, self.lanes, 0) // per_lane)

    def minibatch(self, position: Position) -> Minibatch:
        """The examples of minibatch ``position.step``; the same in every pass (``reshuffle = "stored"``).

        Raises:
            IndexError: the pass has fewer steps.
        """
        if not 0 <= position.step < self.steps:
            raise IndexError(f"step {position.step} of a pass of {self.steps}")
        per_lane = self.batch_size // self.lanes
        before, after = position.step * per_lane, (position.step + 1) * per_lane
        parts = [LanePart(r.index, min(r.start + before, r.stop), min(r.start + after, r.stop)) for r in self.ranges]
        return Minibatch(position, tuple(parts))

    def left(self, lanes: range, step: int) -> list[tuple[int, int]]:
        """The examples that these lanes give from minibatch ``step`` of a pass on, as runs."""
        taken = step * (self.batch_size // self.lanes)
        runs = [(min(r.start + taken, r.stop), r.stop) for r in self.ranges[lanes.start : lanes.stop]]
        return [(start, stop) for start, stop in runs if start < stop]

    @functools.cached_property
    def ranges(self) -> tuple[Lane, ...]:
        """The examples that a pass uses, by lane."""
        starts = (lane(self.examples, self.lanes, index).start for index in range(self.lanes))
        return tuple(
            Lane(index, start, start + lane_size(self.used, self.lanes, index)) for index, start in enumerate(starts)
        )

    def used_before(self, global_step: int) -> tuple[Lane, ...]:
        """The examples that any of the first ``global_step`` updates took, by lane: all of a pass that is done."""
        taken = min(global_step, self.steps) * (self.batch_size // self.lanes)
        return tuple(Lane(r.index, r.start, min(r.start + taken, r.stop)) for r in self.ranges)

    def smallest_part(self) -> int:
        """Examples of the smallest part, empty ones apart, that any lane gives in a pass."""
        last = self.minibatch(Position(0, self.steps - 1))
        return min(part.examples for part in last.parts if part.examples)

    def examples_before(self, position: Position) -> int:
        """Examples in the parameters at ``position``, over all passes so far."""
        full = min(position.step * self.batch_size, self.used)
        return position.pass_index * self.used + full

    def global_step(self, position: Position) -> int:
        """Updates in the parameters at ``position``."""
        return position.pass_index * self.steps + position.step

    def position(self, global_step: int) -> Position:
        """The position after ``global_step`` updates: a finished pass is step 0 of the next."""
        return Position(*divmod(global_step, self.steps))

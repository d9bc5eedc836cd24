"""The minibatches of a pass, the short last one included.

Minibatch ``t`` takes the next ``batch_size / lanes`` examples of every lane (DESIGN, lane). Lane sizes
differ by at most one, so only the last minibatch can be short, and it holds just what is left. Where the batch size
changes by examples used, passes may have different numbers of minibatches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from streamtrain.order.lanes import lane, lane_size
from streamtrain.order.minibatches.legs import Later, Legs
from streamtrain.values import Lane, LanePart, Minibatch, Position


@dataclass(frozen=True)
class Order:
    """Which examples every minibatch of a pass uses.

    Attributes:
        examples: number of examples in the stored order of the split.
        lanes: number of lanes.
        batch_size: examples of a full minibatch; a multiple of ``lanes``.
        used: examples that a pass uses, the first of every lane; all of them by default.
        later: batch sizes after the first; multiples of ``lanes`` too.
    """

    examples: int
    lanes: int
    batch_size: int
    used: int = -1
    later: Later = ()

    def __post_init__(self) -> None:
        if self.used == -1:
            object.__setattr__(self, "used", self.examples)
        if not (0 < self.used <= self.examples and self.lanes > 0 and self.batch_size > 0):
            raise ValueError(f"no order over {self}")
        for size in (self.batch_size, *(size for _, size in self.later)):
            if size % self.lanes:
                raise ValueError(f"batch size {size} does not divide by {self.lanes} lanes")

    @functools.cached_property
    def _legs(self) -> Legs:
        return Legs(self.used, self.lanes, self.batch_size, self.later)

    @property
    def steps(self) -> int:
        """Minibatches of the first pass."""
        return self.steps_of(0)

    def steps_of(self, pass_index: int) -> int:
        """Minibatches of a pass."""
        return self.steps_before(pass_index + 1) - self.steps_before(pass_index)

    def steps_before(self, pass_index: int) -> int:
        """Minibatches of all passes before one."""
        return self._legs.global_step(Position(pass_index, 0))

    def ends_pass(self, global_step: int) -> bool:
        """Whether this minibatch is the last of its pass."""
        return self.position(global_step + 1).step == 0

    def size(self, global_step: int) -> int:
        """Examples of this minibatch, where it is full."""
        return self._legs.at_step(global_step).size * self.lanes

    @property
    def largest(self) -> int:
        """Examples of the largest minibatch."""
        return max([self.batch_size, *(size for _, size in self.later)])

    def minibatch(self, position: Position) -> Minibatch:
        """The examples of the minibatch at a position; with ``reshuffle = "stored"`` the same in every pass.

        Raises:
            IndexError: the pass has fewer steps.
        """
        place = self._legs.at_position(position)
        before, after = place.taken, place.taken + place.size
        if position.step < 0 or before >= self.ranges[0].stop - self.ranges[0].start:
            raise IndexError(f"step {position.step} of a pass of {self.steps_of(position.pass_index)}")
        parts = [LanePart(r.index, min(r.start + before, r.stop), min(r.start + after, r.stop)) for r in self.ranges]
        return Minibatch(position, tuple(parts))

    def left(self, lanes: range, step: int) -> list[tuple[int, int]]:
        """The examples that these lanes give from minibatch ``step`` of the first pass on, as runs."""
        taken = self._legs.at_position(Position(0, step)).taken
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
        taken = self._legs.at_position(Position(0, min(global_step, self.steps))).taken
        return tuple(Lane(r.index, r.start, min(r.start + taken, r.stop)) for r in self.ranges)

    def smallest(self, passes: int = 1) -> Minibatch:
        """Of the minibatches of so many passes, one with the smallest part that any lane gives, empty ones apart."""
        return min((self.minibatch(position) for position in self._legs.kinds(passes)), key=lambda m: m.smallest_part)

    def examples_before(self, position: Position) -> int:
        """Examples in the parameters at ``position``, over all passes so far."""
        return self._legs.used_before(position)

    def step_reaching(self, examples: int) -> int:
        """The fewest updates that have so many examples in the parameters, over all passes."""
        return self._legs.step_reaching(examples)

    def global_step(self, position: Position) -> int:
        """Updates in the parameters at ``position``."""
        return self._legs.global_step(position)

    def position(self, global_step: int) -> Position:
        """The position after ``global_step`` updates: a finished pass is step 0 of the next."""
        return self._legs.at_step(global_step).position

    def steps_of_size(self, global_step: int, size: int) -> int:
        """How far ``global_step`` updates are, in whole minibatches of a ``size`` that never changes."""
        place = self._legs.at_step(global_step)
        each = size // self.lanes
        longest = -(-self.used // self.lanes)
        return place.position.pass_index * -(-longest // each) + place.taken // each

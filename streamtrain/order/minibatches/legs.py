"""Where minibatches of each size begin: the arithmetic of a batch size that changes by examples used.

A leg is all minibatches of one size, over the rest of a pass and any number of passes after it. There are no more legs
than sizes, so any step and any position is found by a search among a few, however long the run is.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

from streamtrain.values import Position

Later = tuple[tuple[int, int], ...]
"""(examples used, batch size from there on), ascending: sizes after the first one."""


def size_after(batch_size: int, later: Later, used: int) -> tuple[int, Later]:
    """The size of a minibatch before which ``used`` examples were used, and the sizes after it, counted from there."""
    reached = [size for threshold, size in later if threshold <= used]
    rest = tuple((threshold - used, size) for threshold, size in later if threshold > used)
    return (reached[-1] if reached else batch_size), rest


@dataclass(frozen=True)
class Leg:
    """Minibatches of one size, from here to where the next leg begins.

    Attributes:
        step: global step of the first.
        start: its position.
        taken: examples that its pass has taken of each lane before.
        size: examples that each lane gives to a full minibatch.
    """

    step: int
    start: Position
    taken: int
    size: int


@dataclass(frozen=True)
class Place:
    """A minibatch.

    Attributes:
        position: of it.
        taken: examples that its pass has taken of each lane before.
        size: examples that each lane gives to it, as far as it has them.
    """

    position: Position
    taken: int
    size: int


class Legs:
    """All legs of a run.

    Args:
        used: examples of a pass.
        lanes: that they lie in.
        batch_size, later: of the minibatches; each a multiple of ``lanes``.
    """

    def __init__(self, used: int, lanes: int, batch_size: int, later: Later) -> None:
        self._used = used
        self._lanes = lanes
        self._longest = -(-used // lanes)
        legs = [Leg(0, Position(0, 0), 0, batch_size // lanes)]
        for threshold, size in later:
            last = legs[-1]
            count = self._steps_to(last, threshold)
            place = self._after(last, count)
            new = Leg(last.step + count, place.position, place.taken, size // lanes)
            legs[-1:] = [last, new] if count else [new]  # two thresholds within one minibatch: the second holds
        self._legs = legs
        self._steps = [leg.step for leg in legs]
        self._starts = [leg.start for leg in legs]

    def at_step(self, step: int) -> Place:
        """The minibatch of a global step."""
        leg = self._legs[bisect.bisect_right(self._steps, step) - 1]
        return self._after(leg, step - leg.step)

    def at_position(self, position: Position) -> Place:
        """The minibatch at a position; one beyond its pass takes nothing."""
        leg = self._leg(position)
        if position.pass_index == leg.start.pass_index:
            taken = leg.taken + (position.step - leg.start.step) * leg.size
        else:
            taken = position.step * leg.size
        return Place(position, taken, leg.size)

    def global_step(self, position: Position) -> int:
        """Minibatches before the one at a position."""
        leg = self._leg(position)
        between = position.pass_index - leg.start.pass_index
        if not between:
            return leg.step + position.step - leg.start.step
        return leg.step + self._rest(leg) + (between - 1) * self._of_pass(leg) + position.step

    def step_reaching(self, used: int) -> int:
        """The first global step before which ``used`` examples were used, over all passes."""
        before = [self.used_before(leg.start) for leg in self._legs]
        leg = self._legs[max(0, bisect.bisect_left(before, used) - 1)]
        return leg.step + self._steps_to(leg, used)

    def used_before(self, position: Position) -> int:
        """Examples that were used before a position, over all passes."""
        taken = self.at_position(position).taken
        return position.pass_index * self._used + min(taken * self._lanes, self._used)

    def kinds(self, passes: int) -> list[Position]:
        """Of the minibatches in so many passes one of each kind: of each size a full one, and those that end a pass."""
        found = []
        stops = [*self._steps[1:], self.global_step(Position(passes, 0))]
        for leg, stop in zip(self._legs, stops, strict=True):
            rest = self._rest(leg)
            counts = (0, rest - 1, rest + self._of_pass(leg) - 1)
            found += [self._after(leg, count).position for count in counts if leg.step + count < min(stop, stops[-1])]
        return found

    def _leg(self, position: Position) -> Leg:
        return self._legs[bisect.bisect_right(self._starts, position) - 1]

    def _rest(self, leg: Leg) -> int:
        """Minibatches of the pass that a leg begins in, from there on."""
        return -(-(self._longest - leg.taken) // leg.size)

    def _of_pass(self, leg: Leg) -> int:
        """Minibatches of each whole pass in a leg."""
        return -(-self._longest // leg.size)

    def _after(self, leg: Leg, count: int) -> Place:
        """The minibatch that comes ``count`` after a leg's first."""
        rest = self._rest(leg)
        if count < rest:
            start = leg.start
            return Place(replace(start, step=start.step + count), leg.taken + count * leg.size, leg.size)
        passes, step = divmod(count - rest, self._of_pass(leg))
        return Place(Position(leg.start.pass_index + 1 + passes, step), step * leg.size, leg.size)

    def _steps_to(self, leg: Leg, used: int) -> int:
        """Minibatches from a leg's first to the first before which ``used`` examples were used.

        All but the last of a pass are full, so they are counted by a division; the last reaches the pass's end.
        """
        before = leg.start.pass_index * self._used + min(leg.taken * self._lanes, self._used)
        if used <= before:
            return 0
        full = leg.size * self._lanes
        end = (leg.start.pass_index + 1) * self._used
        if used <= end:
            return min(-(-(used - before) // full), self._rest(leg))
        passes, left = divmod(used - end, self._used)
        of_pass = self._of_pass(leg)
        return self._rest(leg) + passes * of_pass + min(-(-left // full), of_pass)

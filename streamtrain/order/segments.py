"""The minibatches of data that grows: segment after segment, each with lanes and a last minibatch of its own.

So a minibatch never waits for a segment that is not there yet, and the order is a function of the segments' sizes,
whenever they came: a run that starts when all are there takes the same minibatches.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import replace

from streamtrain.order.minibatch import Order
from streamtrain.values import Lane, Minibatch, Position


class SegmentedOrder:
    """An `Order` of one pass over several segments.

    Args:
        segments: examples of each, in the order of the split; those without any are passed over.
        lanes, batch_size: as in `Order`.
    """

    def __init__(self, segments: Sequence[int], lanes: int, batch_size: int) -> None:
        self.lanes = lanes
        self.batch_size = batch_size
        self._orders = [Order(examples, lanes, batch_size) for examples in segments if examples]
        self._first_steps = [0, *itertools.accumulate(order.steps for order in self._orders)]
        self._first_examples = [0, *itertools.accumulate(order.used for order in self._orders)]

    @property
    def examples(self) -> int:
        """Examples of all segments."""
        return self._first_examples[-1]

    @property
    def used(self) -> int:
        """The same: all are used."""
        return self.examples

    @property
    def steps(self) -> int:
        """Minibatches of all segments."""
        return self._first_steps[-1]

    def minibatch(self, position: Position) -> Minibatch:
        """The examples of minibatch ``position.step``, by their numbers in the split.

        Raises:
            IndexError: no segment has it.
        """
        if not 0 <= position.step < self.steps:
            raise IndexError(f"step {position.step} of {self.steps}")
        index = bisect.bisect_right(self._first_steps, position.step) - 1
        first = self._first_examples[index]
        found = self._orders[index].minibatch(Position(0, position.step - self._first_steps[index]))
        parts = tuple(replace(part, start=first + part.start, stop=first + part.stop) for part in found.parts)
        return Minibatch(position, parts)

    def left(self, lanes: range, step: int) -> list[tuple[int, int]]:
        """The examples that these lanes give from minibatch ``step`` on, as runs."""
        return [
            (first + start, first + stop)
            for order, begin, first in zip(self._orders, self._first_steps, self._first_examples, strict=False)
            for start, stop in order.left(lanes, max(0, step - begin))
        ]

    @property
    def ranges(self) -> tuple[Lane, ...]:
        """The examples that the pass uses: all, as one range."""
        return (Lane(0, 0, self.examples),)

    def used_before(self, global_step: int) -> tuple[Lane, ...]:
        """The examples that any of the first ``global_step`` updates took: whole segments, and a part of each lane."""
        used: list[Lane] = []
        for order, begin, first in zip(self._orders, self._first_steps, self._first_examples, strict=False):
            if global_step <= begin:
                break
            within = order.used_before(global_step - begin)
            used += [Lane(each.index, first + each.start, first + each.stop) for each in within]
        return tuple(used)

    def smallest_part(self) -> int:
        """Examples of the smallest part, empty ones apart, that any lane gives."""
        return min(order.smallest_part() for order in self._orders)

    def examples_before(self, position: Position) -> int:
        """Examples in the parameters at ``position``."""
        index = min(bisect.bisect_right(self._first_steps, position.step), len(self._orders)) - 1
        within = Position(0, position.step - self._first_steps[index])
        return self._first_examples[index] + self._orders[index].examples_before(within)

    def global_step(self, position: Position) -> int:
        """Updates in the parameters at ``position``."""
        return position.step

    def position(self, global_step: int) -> Position:
        """The position after ``global_step`` updates."""
        return Position(0, global_step)

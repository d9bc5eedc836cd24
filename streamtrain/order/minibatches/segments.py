"""The minibatches of data that grows: segment after segment, each with lanes and a last minibatch of its own.

So a minibatch never waits for a segment that is not there yet, and the order is a function of the segments' sizes,
whenever they came: a run that starts when all are there takes the same minibatches.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import replace

from streamtrain.order.minibatches.legs import Later, size_after
from streamtrain.order.minibatches.minibatch import Order
from streamtrain.values import Lane, Minibatch, Position


class SegmentedOrder:
    """An `Order` of one pass over several segments.

    Args:
        segments: examples of each, in the order of the split; those without any are passed over.
        lanes, batch_size, later: as in `Order`.
    """

    def __init__(self, segments: Sequence[int], lanes: int, batch_size: int, later: Later = ()) -> None:
        self.lanes = lanes
        self.batch_size = batch_size
        self.later = later
        sizes = [examples for examples in segments if examples]
        self._first_examples = [0, *itertools.accumulate(sizes)]
        self._orders = []
        for examples, before in zip(sizes, self._first_examples, strict=False):
            size, rest = size_after(batch_size, later, before)
            self._orders.append(Order(examples, lanes, size, later=rest))
        self._first_steps = [0, *itertools.accumulate(order.steps for order in self._orders)]

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
        index, step = self._within(position.step)
        first = self._first_examples[index]
        found = self._orders[index].minibatch(Position(0, step))
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

    def smallest(self, passes: int = 1) -> Minibatch:  # noqa: ARG002  # there is one
        """One with the smallest part, empty ones apart, that any lane gives; by its numbers in its segment."""
        return min((order.smallest() for order in self._orders), key=lambda minibatch: minibatch.smallest_part)

    def examples_before(self, position: Position) -> int:
        """Examples in the parameters at ``position``."""
        index, step = self._within(position.step)
        return self._first_examples[index] + self._orders[index].examples_before(Position(0, step))

    def step_reaching(self, examples: int) -> int:
        """The fewest updates that have so many examples in the parameters."""
        index = max(0, bisect.bisect_left(self._first_examples, examples) - 1)
        index = min(index, len(self._orders) - 1)
        within = min(examples - self._first_examples[index], self._orders[index].used)
        return self._first_steps[index] + self._orders[index].step_reaching(within)

    def steps_of(self, pass_index: int) -> int:  # noqa: ARG002  # there is one
        """Minibatches of the pass: of all segments."""
        return self.steps

    def steps_before(self, pass_index: int) -> int:
        """Minibatches before a pass; the second would begin after all segments."""
        return pass_index * self.steps

    def ends_pass(self, global_step: int) -> bool:
        """Whether this minibatch is the last."""
        return global_step + 1 == self.steps

    def size(self, global_step: int) -> int:
        """Examples of this minibatch, where it is full."""
        index, step = self._within(global_step)
        return self._orders[index].size(step)

    @property
    def largest(self) -> int:
        """Examples of the largest minibatch."""
        return max([self.batch_size, *(size for _, size in self.later)])

    def steps_of_size(self, global_step: int, size: int) -> int:
        """How far ``global_step`` updates are, in whole minibatches of a ``size`` that never changes."""
        index, step = self._within(global_step)
        before = sum(order.steps_of_size(order.steps, size) for order in self._orders[:index])
        return before + self._orders[index].steps_of_size(step, size)

    def global_step(self, position: Position) -> int:
        """Updates in the parameters at ``position``."""
        return position.step

    def position(self, global_step: int) -> Position:
        """The position after ``global_step`` updates."""
        return Position(0, global_step)

    def _within(self, step: int) -> tuple[int, int]:
        """The segment of a step, the last one for all after it, and the step in it."""
        index = min(bisect.bisect_right(self._first_steps, step), len(self._orders)) - 1
        return index, step - self._first_steps[index]

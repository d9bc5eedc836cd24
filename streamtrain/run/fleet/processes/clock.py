"""Where a worker's time goes: waiting for examples, computing gradients, exchanging them, updating.

A look at the clock at each border of a step, about 2 µs a step in all; nothing is reported before a stint has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.decision import Decision
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.state import State
from streamtrain.values import StepTimes

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Clock:
    """One worker's.

    Attributes:
        steps: that were timed.
        training, waiting, meeting, updating: seconds in all of ``advance``, and in parts of it: until examples
            were there, in the exchange, and of that in clipping and the optimizer.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.training = self.waiting = self.meeting = self.updating = 0.0

    def time_waiting(self, arrays: Iterator[Answer]) -> Iterator[Answer]:
        """The same arrays; the time that they kept the worker waiting is noted."""
        while True:
            asked = time.perf_counter()
            examples = next(arrays, None)
            self.waiting += time.perf_counter() - asked
            if examples is None:
                return
            yield examples

    def time_meeting(self, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """The answer of one of the exchange's calls; its time is noted."""
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.meeting += time.perf_counter() - began

    def times(self, ahead: int) -> StepTimes:
        """So far; ``ahead`` as in `StepTimes`."""
        computing = max(0.0, self.training - self.waiting - self.meeting)
        exchanging = max(0.0, self.meeting - self.updating)
        return StepTimes(self.steps, self.waiting, computing, exchanging, self.updating, ahead)


class TimedAggregator(Aggregator):
    """An `Aggregator` that notes the time of its arithmetic."""

    clock: Clock

    def clip(self, block: Block, mean: torch.Tensor, old: State, norms: NDArray[np.float64]) -> None:
        """Clips a block as `Aggregator` does, timed."""
        began = time.perf_counter()
        super().clip(block, mean, old, norms)
        self.clock.updating += time.perf_counter() - began

    def descend(
        self,
        block: Block,
        decision: Decision,
        mean: torch.Tensor,
        old: State,
        new: State,
        changes: NDArray[np.float64],
    ) -> None:
        """Updates a block as `Aggregator` does, timed."""
        began = time.perf_counter()
        super().descend(block, decision, mean, old, new, changes)
        self.clock.updating += time.perf_counter() - began

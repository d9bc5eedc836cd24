"""A batch that follows the gradient's noise: what is remembered of it, and when the batch doubles.

Decided out of numbers of the updates alone, which have the same bits on any number of workers, at fixed steps, and kept
with the position: so a run that goes on, with whatever workers, takes the same minibatches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamtrain.job import BatchSize, Job
from streamtrain.measure.diagnostics.batch_efficiency import cost_of_doubling, may_double
from streamtrain.measure.diagnostics.noise_scale import CLEARLY, NoiseScale
from streamtrain.order import Order, SegmentedOrder
from streamtrain.stored import Stored
from streamtrain.values import Reading, Update


@dataclass
class Growth(Stored):
    """The noise scale in the optimizer's own norm, and the sizes that were decided.

    Attributes:
        noise: of the updates so far that were measured.
        later: (examples used, batch size from there on), as in `Order`.
    """

    noise: NoiseScale = field(default_factory=NoiseScale)
    later: list[tuple[int, int]] = field(default_factory=list)

    def add(self, updates: Sequence[Update]) -> None:
        """Takes in updates, in their order."""
        for update in updates:
            if update.own is not None:
                self.noise.add(update.own)

    def decide(self, batch_size: BatchSize, order: Order | SegmentedOrder, step: int) -> bool:
        """Whether the batch doubles after ``step`` updates; it is in `later` then."""
        size = order.size(step)
        most = batch_size.most or 0
        if step % batch_size.every or 2 * size > most or not self.noise.count:
            return False
        doubles = may_double(self.noise.mean, size)
        if doubles:
            self.later.append((order.examples_before(order.position(step)), 2 * size))
        return doubles

    def readings(self, batch_size: BatchSize, order: Order | SegmentedOrder, step: int, now: float) -> list[Reading]:
        """What a decision after ``step`` updates rests on: the cost of doubling, and what it is at most."""
        if step % batch_size.every or not self.noise.count:
            return []
        noise = self.noise.mean
        size = order.size(step)
        highest = noise.inverse_scale + CLEARLY * noise.inverse_error
        values = {
            "minibatch/cost_of_doubling": cost_of_doubling(size, noise.inverse_scale),
            "minibatch/cost_of_doubling_at_most": cost_of_doubling(size, highest),
        }
        return [Reading(name, value, step - 1, now) for name, value in values.items() if not math.isnan(value)]


def following(job: Job) -> BatchSize | None:
    """A job's batch size, where it follows the gradient's noise."""
    batch_size = job.batch_size
    return batch_size if isinstance(batch_size, BatchSize) and batch_size.follow is not None else None


def decided_before(followed: BatchSize | None, until: int, step: int) -> int:
    """``until``, or the next decision after ``step`` where it comes earlier."""
    return until if followed is None else min(until, (step // followed.every + 1) * followed.every)

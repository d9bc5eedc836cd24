"""The training loop. Everything is decided before its first line; measuring and tracking listen outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.gradient import Gradient
from streamtrain.order import Order, lane_seed
from streamtrain.values import Arrays, LanePart, Update


def parts_from(order: Order, lanes: range, step: int, total_steps: int) -> Iterator[LanePart]:
    """What the worker that hosts ``lanes`` needs from global ``step`` to the end of the longest possible run."""
    for each in range(step, total_steps):
        yield from order.minibatch(order.position(each)).parts[lanes.start : lanes.stop]


def updates(
    order: Order, lanes: range, arrays: Iterator[Arrays], gradient: Gradient, exchange: Exchange, seed: int
) -> Iterator[Update]:
    """Trains from the exchange's step on, one update a turn, for as long as it is asked.

    Args:
        lanes: those that this worker hosts.
        arrays: the examples of their parts, in `parts_from`'s order, empty parts passed over.
    """
    while True:
        step = exchange.step
        minibatch = order.minibatch(order.position(step))
        gradient.load(exchange.state)
        for part in minibatch.parts[lanes.start : lanes.stop]:
            slot = exchange.slot(part.lane)
            if part.examples:
                gradient.lane(next(arrays), slot, lane_seed(seed, step, part.lane))
            else:
                gradient.empty_lane(slot)
        yield exchange.meet()  # sums, clips, updates, and commits parameters and position in one write


def pooled_updates(
    order: Order, read: Callable[[LanePart], Arrays], gradient: Gradient, pool: Pool, seed: int, until: int
) -> Iterator[Update]:
    """The same where no worker hosts fixed lanes: takes parts from the pool until ``until`` updates are in the state.

    Gives the updates that this worker made; others made the others.
    """
    while (claim := pool.claim(until)) is not None:
        part = order.minibatch(order.position(claim.step)).parts[claim.lane]
        gradient.load(claim.state)
        if part.examples:
            gradient.lane(read(part), claim.slot, lane_seed(seed, claim.step, claim.lane))
        else:
            gradient.empty_lane(claim.slot)
        yield from pool.finish(claim)

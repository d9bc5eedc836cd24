"""The training loop. Everything is decided before its first line; measuring and tracking listen outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamtrain.aggregate.exchange.contract import Exchange, Pending
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.moments import WrongWeight
from streamtrain.model.gradient import Batch, Gradient, Part
from streamtrain.order import Order, Passes, SegmentedOrder, lane_seed
from streamtrain.run.fleet.processes.audit import Audit
from streamtrain.run.fleet.processes.clock import Clock
from streamtrain.values import Arrays, Selection, Update


def updates(
    order: Order | SegmentedOrder,
    lanes: range,
    arrays: Iterator[Arrays | Batch],
    gradient: Gradient,
    exchange: Exchange,
    audit: Audit,
    clock: Clock,
    seed: int,
) -> Iterator[Update | Pending]:
    """Trains from the exchange's step on, one update a turn, for as long as it is asked.

    Args:
        lanes: those that this worker hosts.
        arrays: the examples of their parts, in `select_lanes`'s order; without the bad ones that are skipped.
    """
    while True:
        step = exchange.step
        parts = order.minibatch(order.position(step)).parts[lanes.start : lanes.stop]
        gradient.load(exchange.state)
        gradient.lanes(
            (Part(p.lane, next(arrays) if p.examples else {}, lane_seed(seed, step, p.lane)) for p in parts),
            exchange.slot,
        )
        audit.compare(exchange)  # before anybody has made the step: it happens with these bits, or not at all
        # sums, clips, updates, and commits parameters and position in one write
        yield clock.time_meeting(exchange.meet)


def pooled_updates(
    order: Order | SegmentedOrder,
    passes: Passes,
    read: Callable[[Selection], Arrays],
    gradient: Gradient,
    pool: Pool,
    clock: Clock,
    seed: int,
    *,
    until: int,
) -> Iterator[Update]:
    """The same where no worker hosts fixed lanes: takes parts from the pool until ``until`` updates are in the state.

    Gives the updates that this worker made; others made the others.
    """
    while (step := pool.step) < until:
        yield from clock.time_meeting(list, pool.updates())
        claim = clock.time_meeting(pool.claim, until)
        if claim is None:
            clock.time_meeting(pool.wait, step)
            continue
        position = order.position(claim.of)
        part = order.minibatch(position).parts[claim.lane]
        gradient.load(claim.state)
        examples = read(passes.stored(position.pass_index, part.start, part.stop)) if part.examples else {}
        if examples:
            try:
                gradient.lane(examples, claim.slot, lane_seed(seed, claim.of, claim.lane))
            except WrongWeight as wrong:
                raise wrong.of_lane(claim.lane, claim.of) from None
        else:
            gradient.empty_lane(claim.slot)
        clock.time_meeting(pool.finish, claim)

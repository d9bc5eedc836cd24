"""Which exchange a worker joins, in which memory, and what it brings along from the last formation."""

import dataclasses
import os

import pytest
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.barrier import SharedBarrier
from streamtrain.aggregate.exchange.collective.exchange import CollectiveExchange
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange
from streamtrain.aggregate.exchange.join import Participant, Seat
from streamtrain.aggregate.exchange.memory import Frozen
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.state import State
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import JobError
from streamtrain.job import Average, Data, Job, Stale, Synchronous
from streamtrain.order import hosting_of

LANES = 4
HERE = {0: os.getpid()}
JOB = Job(
    Data("unused", inputs=("x",)),
    lambda: torch.nn.Linear(3, 2),
    batch_size=8,
    lanes=LANES,
    optimizer=SGD(momentum=0.9),
    average=Average(0.9),
)
ALONE = Seat(0, hosting_of(LANES, 1), step=0, meeting=None, processes=HERE)


class HalfFrozen(torch.nn.Module):
    """Parameters that do not move, of two types, beside one that does."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 5), value), requires_grad=False)
        self.halves = torch.nn.Parameter(torch.full((), value, dtype=torch.bfloat16), requires_grad=False)
        self.trained = torch.nn.Parameter(torch.full((3,), value))


class Joiner:
    """A participant whose run begins with ones, and that counts how often it began."""

    def __init__(self, job: Job = JOB, frozen: float = 1.0) -> None:
        self.frozen = HalfFrozen(frozen)
        self.layout = layout_of(torch.nn.Linear(3, 2))
        self.filled, self.shares = 0, list[tuple[int, int]]()
        self.job = job
        self.participant = Participant(
            job,
            self.layout,
            lanes=LANES,
            pass_steps=3,
            fill=self.fill,
            parameters=list(torch.nn.Linear(3, 2).parameters()),
            frozen=Frozen(self.frozen),
        )

    def fill(self, state: State) -> None:
        self.filled += 1
        ones = {place.name: torch.ones(place.shape) for place in self.layout.parameters}
        state.begin(self.layout, ones, scaled=False)

    def make_aggregator(self, worker: int, workers: int) -> Aggregator:
        self.shares.append((worker, workers))
        return Aggregator(
            self.layout,
            Descent.of(self.job),
            rate_of=LearningRate(self.job.schedule, 8, 3),
            worker=worker,
            workers=workers,
        )


def test_a_single_worker_meets_nobody_in_memory_without_a_name() -> None:
    joiner = Joiner()
    assert joiner.participant.step == -1
    assert joiner.participant.offer_memory(0) is None
    exchange = joiner.participant.join(ALONE, joiner.make_aggregator)
    assert isinstance(exchange, SharedExchange) and joiner.shares == [(0, 1)]
    assert joiner.participant.step == 0 and joiner.participant.writes_state
    assert exchange.state.evaluated.sum() == 8 and not exchange.state.vectors["momentum"].any()


def test_workers_of_one_host_share_the_block_that_one_of_them_offers() -> None:
    job = dataclasses.replace(JOB, workers=2)
    first, second = Joiner(job), Joiner(job)
    handle = first.participant.offer_memory(0)
    assert handle is not None
    hosting = hosting_of(LANES, 2)
    processes = {0: os.getpid(), 1: os.getpid()}
    for index, joiner in enumerate((first, second)):
        exchange = joiner.participant.join(Seat(index, hosting, 0, handle, processes), joiner.make_aggregator)
        assert isinstance(exchange, SharedExchange) and joiner.shares == [(index, 2)]
    first.participant.exchange.state.parameters.fill_(5)
    assert (second.participant.exchange.state.parameters == 5).all() and second.filled == 0
    assert first.participant.writes_state and not second.participant.writes_state


def test_frozen_parameters_lie_once_on_a_host() -> None:
    """A write to one worker's is seen in the other's; what trains stays apart, and a single worker keeps its own."""
    job = dataclasses.replace(JOB, workers=2)
    joiners = [Joiner(job), Joiner(job)]
    hosting, processes = hosting_of(LANES, 2), {0: os.getpid(), 1: os.getpid()}

    def meet() -> None:
        handle = joiners[0].participant.offer_memory(0)
        for index, joiner in enumerate(joiners):
            joiner.participant.join(Seat(index, hosting, 0, handle, processes), joiner.make_aggregator)

    meet()
    for joiner in joiners:
        assert (joiner.frozen.weight == 1).all() and joiner.frozen.halves == 1
    first, second = (joiner.frozen for joiner in joiners)
    first.weight[1, 1] = 7
    first.halves.fill_(8)
    assert second.weight[1, 1] == 7 and second.halves == 8
    with torch.no_grad():
        first.trained.fill_(9)
    assert (second.trained == 1).all()
    for joiner in joiners:  # another formation, in another block
        joiner.participant.forget()
    meet()
    first.weight[0, 0] = 3
    assert second.weight[0, 0] == 3 and second.weight[1, 1] == 7
    alone = Joiner()
    before = alone.frozen.weight.data_ptr()
    alone.participant.offer_memory(0)
    alone.participant.join(ALONE, alone.make_aggregator)
    assert alone.frozen.weight.data_ptr() == before


def test_frozen_parameters_that_differ_from_worker_to_worker_are_refused_by_name() -> None:
    job = dataclasses.replace(JOB, workers=2)
    first, second = Joiner(job), Joiner(job, frozen=2.0)
    handle = first.participant.offer_memory(0)
    with pytest.raises(
        JobError, match="model: expected frozen parameters that are the same.*found other values of weight"
    ):
        second.participant.join(
            Seat(1, hosting_of(LANES, 2), 0, handle, {0: os.getpid(), 1: os.getpid()}), second.make_aggregator
        )
    assert (first.frozen.weight == 1).all()


@pytest.mark.parametrize("aggregation", [Stale(bound=2), Synchronous(backup=1)], ids=["stale", "backup"])
def test_parts_that_nobody_owns_are_taken_from_a_pool(aggregation: Stale | Synchronous) -> None:
    joiner = Joiner(dataclasses.replace(JOB, aggregation=aggregation))
    handle = joiner.participant.offer_memory(0)
    pool = joiner.participant.join(dataclasses.replace(ALONE, meeting=handle), joiner.make_aggregator)
    assert isinstance(pool, Pool) and joiner.shares == [(0, 1)]
    assert len(pool._memory.states) == (4 if isinstance(aggregation, Stale) else 2)


def test_a_worker_with_a_device_has_its_memory_there() -> None:
    placed = dataclasses.replace(JOB)
    object.__setattr__(placed, "device", "meta")  # none that a job may have
    joiner = Joiner(placed)
    exchange = joiner.participant.join(ALONE, joiner.make_aggregator)
    assert isinstance(exchange, DeviceExchange) and exchange.state.parameters.device.type == "meta"


def test_a_new_formation_goes_on_with_the_state_of_the_last() -> None:
    joiner = Joiner()
    participant = joiner.participant
    participant.offer_memory(0)
    participant.join(ALONE, joiner.make_aggregator).state.parameters.fill_(7)
    address = participant.open_store("127.0.0.1")
    networked = dataclasses.replace(ALONE, meeting=address, hosts=(range(1),), step=0)
    exchange = participant.join(networked, joiner.make_aggregator)
    assert isinstance(exchange, CollectiveExchange)
    assert (exchange.state.parameters == 7).all() and joiner.filled == 1 and participant.writes_state
    exchange.state.parameters.fill_(9)
    participant.offer_memory(0)
    again = participant.join(ALONE, joiner.make_aggregator)
    assert isinstance(again, SharedExchange) and (again.state.parameters == 9).all() and joiner.filled == 1
    participant.forget()
    assert participant.step == -1
    participant.offer_memory(0)
    assert participant.join(ALONE, joiner.make_aggregator).state.parameters.sum() == 8 and joiner.filled == 2


def test_who_leaves_a_group_of_hosts_does_not_give_up_in_the_block_of_the_next_formation() -> None:
    """Two workers of one host, first among hosts, then again, then by themselves: always in the same block."""
    job = dataclasses.replace(JOB, workers=2)
    joiners = [Joiner(job), Joiner(job)]
    here = {0: os.getpid(), 1: os.getpid()}
    for networked in (True, True, False):
        address = joiners[0].participant.open_store("127.0.0.1")
        block = joiners[0].participant.offer_memory(0)
        seat = Seat(0, hosting_of(LANES, 2), 0, block, here)
        if networked:
            seat = dataclasses.replace(seat, meeting=address, hosts=(range(2),), block=block)
        for index, joiner in enumerate(joiners):
            joiner.participant.join(dataclasses.replace(seat, index=index), joiner.make_aggregator)
        for joiner in joiners:
            barrier = joiner.participant.exchange._barrier  # type: ignore[union-attr]
            assert isinstance(barrier, SharedBarrier)
            barrier._look_at_peers()  # as who waits does: raises where somebody has given up

"""A worker: hosts some lanes, computes their gradients, takes part in the exchange.

A plain class, made an actor in `recruiting`.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.exchange.collective.exchange import CollectiveExchange
from streamtrain.aggregate.exchange.collective.group import Address, Membership, join_group, open_store
from streamtrain.aggregate.exchange.collective.hosts import memberships
from streamtrain.aggregate.exchange.collective.wire import connect
from streamtrain.aggregate.exchange.contract import Exchange, Pending
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange, settled
from streamtrain.aggregate.exchange.memory import (
    DeviceMemory,
    Handle,
    Memory,
    block_size,
    keep_block,
    open_file,
    private_block,
    shared_block,
)
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.saved import restore, tensors_of
from streamtrain.aggregate.state import STATE_PARTS, State
from streamtrain.job import Epochs, Stale
from streamtrain.model.device import prepare_process
from streamtrain.model.gradient import Gradient, build_model
from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.fleet.processes.clock import Clock, TimedAggregator
from streamtrain.run.fleet.processes.supply import Supply
from streamtrain.run.loop import pooled_updates, updates
from streamtrain.run.watching.trace import Made, traced
from streamtrain.stream.ahead.copies import batches_of
from streamtrain.stream.ahead.streamer import StreamHandle
from streamtrain.values import Arrays, Loading, Risk, Selection, Skip, StepTimes, Update

SPARSE = 4
"""Shards behind a URL are fetched in parts where an evaluation uses less than one example in so many."""


@dataclass(frozen=True)
class Standing:
    """How far a worker is: updates in its state, -1 where it has none yet, and seconds since the last of them."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Seat:
    """A worker's part in a formation: who it is, of how many, and where they meet.

    Attributes:
        index, workers: this worker's among so many.
        step: updates in the state that they begin with.
        meeting: the block or the store of one of them; ``None`` where a worker is alone.
        processes: process number of every worker.
        stream: of this worker's streamer; ``None`` where the worker reads itself.
        hosts: the workers of each host, where they meet by network.
        block: in which the workers of this one's host meet then, where it has several.
    """

    index: int
    workers: int
    step: int
    meeting: Handle | Address | None
    processes: Mapping[int, int]
    stream: StreamHandle | None
    hosts: tuple[range, ...] = ()
    block: Handle | None = None


class Worker:
    """See the module.

    Calls come in this order: ``offer_memory`` or ``make_store`` of one worker, ``join`` of all, then ``advance``,
    ``evaluate`` and ``snapshot`` as often as wanted. ``join`` begins a new formation, at any step: when one was
    lost, ``standing`` and ``made`` say what the others have; who lacks it gets it by ``take`` or with the memory.

    Args:
        start: a checkpoint's tensors and step, to begin with.
    """

    def __init__(self, plan: Plan, start: tuple[Mapping[str, torch.Tensor], int] | None = None) -> None:
        prepare_process(plan.job)
        self._plan, self._start = plan, start
        self._gradient = Gradient(plan.job)
        self._supply = Supply(plan)
        self._memory: Memory | None = None
        self._handle: Handle | None = None
        self._clock = Clock()
        self._trace: str | None = None
        self._made: list[Update | Pending] = []
        self._moved = time.monotonic()
        self._current: Exchange | Pool | None = None

    def process_number(self) -> int:
        """This process's."""
        return os.getpid()

    def make_store(self, host: str) -> Address:
        """Opens the place where workers of several hosts ask for each other; ``host`` is this one's address."""
        address, self._store = open_store(host)
        return address

    def standing(self) -> Standing:
        """How far this worker is."""
        return Standing(-1 if self._current is None else self._current.step, time.monotonic() - self._moved)

    def made(self) -> list[Update]:
        """Updates of the last ``advance``, also where it did not end well."""
        return settled(self._made)

    def take(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Has another worker's state, as ``save`` gave it, for the formation that comes."""
        self._start, self._current = (tensors, step), None
        self._memory = self._handle = None

    def offer_memory(self, step: int) -> Handle | None:
        """Names the block in which the workers of one host meet, with this one's state after ``step`` updates.

        Makes it where there is none; it has no name where there is never more than one worker.
        """
        if self._memory is None:
            job, alone = self._plan.job, self._plan.job.most_workers == 1
            size = block_size(self._gradient.layout, job.sgd, *self._room, job.backup)
            private = alone and not job.pooled
            block, self._handle = (private_block(size), None) if private else shared_block(size)
            memory = self._memory_in(block)
            self._fill(memory.states[step % len(memory.states)])
            self._memory = memory
        self._memory.reset(step)
        return self._handle

    def join(self, seat: Seat) -> None:
        """Enters the exchange."""
        job, meeting = self._plan.job, seat.meeting
        self._seat, self._lanes = seat, lanes_of_worker(self._plan.order.lanes, seat.workers, seat.index)
        if isinstance(self._current, CollectiveExchange | DeviceExchange):
            self._current.abandon()  # a process is in one group at a time
        if job.pooled:
            assert isinstance(meeting, Handle)
            memory, pass_steps = self._opened(meeting), self._plan.order.steps if isinstance(job.mode, Epochs) else 0
            self._current = Pool(memory, self._aggregator(worker=0, workers=1), open_file(meeting), pass_steps)
            return
        if job.device != "cpu":
            self._current = self._on_device(meeting)
        else:
            self._current = self._collective(meeting) if isinstance(meeting, Address) else self._shared(meeting)
        self._gradient.forget()
        self._begin(seat.stream)

    def leave_out(self, plan: Plan) -> None:
        """Goes on without the examples that ``plan`` leaves out; ``join`` comes next."""
        self._plan = plan
        self._supply.leave_out(plan)

    def extend(self, plan: Plan, stream: StreamHandle | None) -> None:
        """Goes on with a data set that has grown; ``stream`` as in ``join``, from the present step on."""
        self._plan = plan
        self._supply.extend(plan)
        if not isinstance(self._exchange, Pool):
            self._begin(stream)

    def _begin(self, stream: StreamHandle | None) -> None:
        """Makes the loop that `advance` drives, from the exchange's step on."""
        plan, exchange = self._plan, self._exchange
        assert not isinstance(exchange, Pool)
        arrays = self._clock.waited(self._supply.begin(self._lanes, exchange.step, stream))
        batches = batches_of(arrays, torch.device(plan.job.device))
        own = (plan.order, self._lanes, batches, self._gradient, exchange, self._clock)
        self._updates = self._traced(updates(*own, plan.job.seed))

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state.

        Returns:
            The updates: the first worker all of them, since all have the same; from a pool, each those that it made.

        Raises:
            NonFiniteError, JobError, DataError: the state is that of the last good step.
            WorkerLost: another worker died or gave up.
        """
        first, began = self._exchange.step, time.perf_counter()
        try:
            if isinstance(self._exchange, Pool):
                plan, pool = self._plan, self._exchange
                made = pooled_updates(
                    *(plan.order, plan.pass_orders, self._read, self._gradient, pool, self._clock, plan.job.seed),
                    until=step,
                )
                return list(self._traced(made))
            self._made = []
            for update in itertools.islice(self._updates, step - self._exchange.step):
                self._made.append(update)  # kept, for the case that another worker is lost
                self._moved = time.monotonic()
            made_here = settled(self._made)
        except BaseException:
            self._exchange.abandon()
            raise
        finally:
            self._clock.training += time.perf_counter() - began
            self._clock.steps += self._exchange.step - first
        return made_here if self._seat.index == 0 else []

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """Risk on each ``(start, stop)`` of a split's stored order, at the current state."""
        self._load()
        reader = self._supply.reader(split)
        if SPARSE * self._seat.workers * sum(stop - start for start, stop in slices) < len(reader):
            reader.expect(slices)
        return [self._gradient.evaluate(reader.read(start, stop)) for start, stop in slices]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state, on the CPU, sharing no memory."""
        self._load()
        return self._gradient.state_dict()

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones, which follow from the seed again."""
        self._load()
        start = dict(build_model(self._plan.job).named_parameters())
        with torch.no_grad():
            ways = [p.cpu() - start[name] for name, p in self._gradient.model.named_parameters()]
            return math.hypot(*(float(torch.linalg.vector_norm(way)) for way in ways))

    def save(self) -> dict[str, torch.Tensor]:
        """The whole state as named tensors, for a checkpoint."""
        return tensors_of(self._gradient.layout, self._exchange.state)

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum; every worker is told."""
        if self._memory is None or self._seat.index in (0, *(host.start for host in self._seat.hosts)):
            self._gradient.write(self._exchange.state, parameters)
        self._gradient.forget()

    def loading(self) -> Loading:
        """What reading has cost this worker so far, and its streamer."""
        return self._supply.loading(self._clock.waiting)

    def trace(self) -> str | None:
        """A few of its steps as a Chrome trace, where the job asks for one and they are made."""
        return self._trace

    def _keep_trace(self, trace: str) -> None:
        self._trace = trace

    def _traced(self, updates: Iterator[Made]) -> Iterator[Made]:
        """The same; with a trace, where the job asks for one and there is none."""
        return traced(updates, self._keep_trace) if self._plan.job.profile and self._trace is None else updates

    def times(self) -> StepTimes:
        """What this worker's steps have been spent on so far."""
        return self._clock.times(self._supply.ahead())

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that this worker itself passed over, by split and number in the stored order."""
        return self._supply.skipped()

    @property
    def _in_flight(self) -> int:
        """Minibatches that are worked on at once."""
        aggregation = self._plan.job.aggregation
        return aggregation.bound + 1 if isinstance(aggregation, Stale) else 1

    @property
    def _exchange(self) -> Exchange | Pool:
        assert self._current is not None, "join comes first"
        return self._current

    def _fill(self, state: State) -> None:
        """The state that a formation begins with: this worker's, or a checkpoint's, or the model's initial one."""
        if self._current is not None:
            for part in STATE_PARTS:
                getattr(state, part).copy_(getattr(self._current.state, part))
            return
        self._gradient.write(state, self._gradient.model.state_dict())
        if self._start is not None:
            restore(self._gradient.layout, state, self._start[0])

    @property
    def _room(self) -> tuple[int, int, int]:
        """Lanes, workers and minibatches in flight that a block has room for."""
        return self._plan.order.lanes, self._plan.job.most_workers, self._in_flight

    def _memory_in(self, block: mmap.mmap) -> Memory:
        return Memory(
            self._gradient.layout, self._plan.job.sgd, *self._room[:2], block, self._in_flight, self._plan.job.backup
        )

    def _opened(self, handle: Handle | None) -> Memory:
        """The block; whoever made it, or has opened it before, has it already."""
        if self._memory is None:
            assert handle is not None
            block, self._handle = keep_block(handle)
            self._memory = self._memory_in(block)
        return self._memory

    def _shared(self, handle: Handle | None) -> Exchange:
        seat = self._seat
        aggregator = self._aggregator(seat.index, seat.workers)
        return SharedExchange(self._opened(handle), aggregator, self._hosting, seat.index, seat.processes)

    def _collective(self, address: Address) -> Exchange:
        job, seat, layout = self._plan.job, self._seat, self._gradient.layout
        hosts, crew = memberships(seat.hosts, self._hosting, seat.index)
        if seat.block is None:
            block = private_block(block_size(layout, job.sgd, hosts.lanes, 1))
            self._take_up(memory := Memory(layout, job.sgd, hosts.lanes, 1, block))
        else:
            memory = self._opened(seat.block)
        wire = connect(address, hosts, job.lost_after) if crew.worker == 0 else None
        processes = {worker: seat.processes[seat.index - crew.worker + worker] for worker in range(crew.workers)}
        aggregator = self._aggregator(crew.worker, crew.workers)
        not_yet = job.micro_batch or job.precision == "fp16"  # what backward makes is not the lane's
        ahead = () if not_yet else self._gradient.parameters
        return CollectiveExchange(layout, aggregator, memory, hosts, crew, processes, wire, ahead)

    def _on_device(self, meeting: Handle | Address | None) -> Exchange:
        job, layout, device = self._plan.job, self._gradient.layout, torch.device(self._plan.job.device)
        members = Membership(self._seat.index, self._hosting)
        self._take_up(memory := DeviceMemory(layout, job.sgd, members.lanes, self._lanes, device))
        if isinstance(meeting, Address):
            join_group(meeting, members, device, job.lost_after)
        aggregator = self._aggregator(self._seat.index, self._seat.workers)
        arithmetic = DeviceArithmetic(layout, job.sgd, aggregator, device, scaled=job.precision == "fp16")
        return DeviceExchange(layout, aggregator, arithmetic, memory, members)

    def _take_up(self, memory: Memory | DeviceMemory) -> None:
        """This worker's state in memory that it shares with nobody."""
        self._fill(memory.states[self._seat.step % 2])
        memory.words[0] = self._seat.step
        self._memory = self._handle = None

    @property
    def _hosting(self) -> tuple[range, ...]:
        """Every worker's lanes."""
        workers = self._seat.workers
        return tuple(lanes_of_worker(self._plan.order.lanes, workers, worker) for worker in range(workers))

    def _aggregator(self, worker: int, workers: int) -> Aggregator:
        job = self._plan.job
        aggregator = TimedAggregator(
            self._gradient.layout,
            job.sgd,
            batch_size=job.batch_size,
            total_steps=self._plan.total_steps,
            worker=worker,
            workers=workers,
            norms_every=job.tracking.log_every if job.tracking.diagnostics else 0,
            scaled=job.precision == "fp16",
        )
        aggregator.clock = self._clock
        return aggregator

    def _read(self, selection: Selection) -> Arrays:
        """A part that came from the pool."""
        return next(self._clock.waited(self._supply.part(each) for each in (selection,)))

    def _load(self) -> None:
        """What is evaluated and returned: the parameters, or their average."""
        state = self._exchange.state
        self._gradient.load(state, state.evaluated)

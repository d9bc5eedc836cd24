"""A worker: hosts some lanes, computes their gradients, takes part in the exchange.

A plain class, made an actor in `actors`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.exchange.collective import Address, CollectiveExchange, Membership, join_group, open_store
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.memory import (
    Handle,
    Memory,
    block_size,
    open_block,
    open_file,
    private_block,
    private_halves,
    shared_block,
)
from streamtrain.aggregate.exchange.pool import Pool
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.gradient import Gradient
from streamtrain.job import Stale
from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.loop import parts_from, pooled_updates, updates
from streamtrain.stream.reader import Reader
from streamtrain.stream.ring import RingHandle
from streamtrain.stream.streamer import Streamer, parts_read, parts_streamed
from streamtrain.values import Arrays, LanePart, Risk, Update


class Worker:
    """See the module.

    Calls come in this order: ``make_memory`` or ``make_store`` of worker 0, ``join`` of all, then ``advance``,
    ``evaluate`` and ``snapshot`` as often as wanted.
    """

    def __init__(self, plan: Plan, index: int) -> None:
        torch.set_num_threads(plan.job.threads)
        self._plan, self._index = plan, index
        self._lanes = lanes_of_worker(plan.order.lanes, plan.job.workers, index)
        self._gradient = Gradient(plan.job)
        self._readers: dict[str, Reader] = {}
        self._memory: Memory | None = None
        self._exchange: Exchange | Pool

    def process_number(self) -> int:
        """The operating system's number of this process."""
        return os.getpid()

    def make_memory(self) -> Handle | None:
        """Makes the block in which the workers meet, with the initial state; ``None`` where there is one worker."""
        layout, lanes, workers = self._gradient.layout, self._plan.order.lanes, self._plan.job.workers
        job, in_flight = self._plan.job, self._in_flight
        size = block_size(layout, job.sgd, lanes, workers, in_flight)
        alone = workers == 1 and not isinstance(job.aggregation, Stale)
        block, handle = (private_block(size), None) if alone else shared_block(size)
        self._memory = Memory(layout, job.sgd, lanes, workers, block, in_flight)
        self._gradient.write(self._memory.states[0], self._gradient.model.state_dict())
        return handle

    def make_store(self, host: str) -> Address:
        """Opens the place where workers of several hosts ask for each other; ``host`` is this one's address."""
        address, self._store = open_store(host)
        return address

    def join(self, meeting: Handle | Address | None, processes: Mapping[int, int], ring: RingHandle | None) -> None:
        """Enters the exchange.

        Args:
            meeting: the block or the store that worker 0 made; ``None`` where it is alone.
            processes: process number of every worker.
            ring: of this worker's streamer; ``None`` where the worker reads itself.
        """
        job, order = self._plan.job, self._plan.order
        if isinstance(job.aggregation, Stale):
            assert isinstance(meeting, Handle)
            memory = self._opened(meeting)
            self._exchange = Pool(memory, self._aggregator(worker=0, workers=1), open_file(meeting))
            return
        self._exchange = self._collective(meeting) if isinstance(meeting, Address) else self._shared(meeting, processes)
        if ring is None:
            parts = parts_from(order, self._lanes, self._exchange.step, self._plan.total_steps)
            arrays = parts_read(self._reader("train"), parts)
        else:
            arrays = parts_streamed(ring)
        self._updates: Iterator[Update] = updates(order, self._lanes, arrays, self._gradient, self._exchange, job.seed)

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state.

        Returns:
            The updates: worker 0 all of them, since all have the same; from a pool, each those that it made.

        Raises:
            NonFiniteError, JobError, DataError: the state is that of the last good step.
            WorkerLost: another worker died or gave up.
        """
        try:
            if isinstance(self._exchange, Pool):
                job, order = self._plan.job, self._plan.order
                return list(pooled_updates(order, self._read, self._gradient, self._exchange, job.seed, step))
            done = list(itertools.islice(self._updates, step - self._exchange.step))
        except BaseException:
            self._exchange.abandon()
            raise
        return done if self._index == 0 else []

    def evaluate(self, split: str, slices: Sequence[tuple[int, int]]) -> list[Risk]:
        """Risk on each ``(start, stop)`` of a split's stored order, at the current state."""
        self._load()
        reader = self._reader(split)
        return [self._gradient.evaluate(reader.read(start, stop)) for start, stop in slices]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The model's state dict at the current state, on the CPU, sharing no memory."""
        self._load()
        return self._gradient.state_dict()

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum; every worker is told."""
        if self._index == 0 or self._memory is None:
            self._gradient.write(self._exchange.state, parameters)
        self._gradient.forget()

    @property
    def _in_flight(self) -> int:
        """Minibatches that are worked on at once."""
        aggregation = self._plan.job.aggregation
        return aggregation.bound + 1 if isinstance(aggregation, Stale) else 1

    def _opened(self, handle: Handle | None) -> Memory:
        """The block, which worker 0 has from making it."""
        if self._memory is None:
            assert handle is not None
            job, lanes = self._plan.job, self._plan.order.lanes
            block = open_block(handle)
            self._memory = Memory(self._gradient.layout, job.sgd, lanes, job.workers, block, self._in_flight)
        return self._memory

    def _shared(self, handle: Handle | None, processes: Mapping[int, int]) -> Exchange:
        aggregator = self._aggregator(self._index, self._plan.job.workers)
        return SharedExchange(self._opened(handle), aggregator, self._index, processes)

    def _collective(self, address: Address) -> Exchange:
        job, lanes = self._plan.job, self._plan.order.lanes
        device = torch.device(job.device)
        membership = Membership(self._index, tuple(lanes_of_worker(lanes, job.workers, w) for w in range(job.workers)))
        halves = private_halves(self._gradient.layout, job.sgd, device)
        self._gradient.write(halves[0], self._gradient.model.state_dict())
        join_group(address, membership, device)
        aggregator = self._aggregator(self._index, job.workers)
        return CollectiveExchange(self._gradient.layout, aggregator, halves, membership, step=0)

    def _aggregator(self, worker: int, workers: int) -> Aggregator:
        job = self._plan.job
        return Aggregator(
            self._gradient.layout,
            job.sgd,
            batch_size=job.batch_size,
            total_steps=self._plan.total_steps,
            worker=worker,
            workers=workers,
        )

    def _read(self, part: LanePart) -> Arrays:
        return self._reader("train").read(part.start, part.stop)

    def _load(self) -> None:
        """What is evaluated and returned: the parameters, or their average."""
        state = self._exchange.state
        self._gradient.load(state, state.evaluated)

    def _reader(self, split: str) -> Reader:
        if split not in self._readers:
            self._readers[split] = self._plan.reader(split)
        return self._readers[split]


class WorkersStreamer(Streamer):
    """The streamer of worker ``index``: reads and decodes its lanes' parts ahead of it."""

    def __init__(self, plan: Plan, index: int) -> None:
        order = plan.order
        lanes = lanes_of_worker(order.lanes, plan.job.workers, index)
        parts = parts_from(order, lanes, 0, plan.total_steps)
        super().__init__(plan.reader("train"), parts, largest=order.batch_size // order.lanes)

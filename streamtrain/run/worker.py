"""A worker: hosts some lanes, computes their gradients, takes part in the exchange.

A plain class, made an actor in `actors`.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import time
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
from streamtrain.gradient import Gradient, build_model
from streamtrain.job import Stale
from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.loop import pooled_updates, selections_from, updates
from streamtrain.stream.reader import Reader
from streamtrain.stream.ring import RingHandle, RingReader
from streamtrain.stream.streamer import Streamer, selections_read, selections_streamed
from streamtrain.values import Arrays, Loading, Risk, Selection, Skip, Update

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD = -1, -3, 2**25
"""Of glibc: mallopt(3)."""


class Worker:
    """See the module.

    Calls come in this order: ``make_memory`` or ``make_store`` of worker 0, ``join`` of all, then ``advance``,
    ``evaluate`` and ``snapshot`` as often as wanted.
    """

    def __init__(self, plan: Plan, index: int) -> None:
        torch.set_num_threads(plan.job.threads)
        keep_freed_memory()
        self._plan, self._index = plan, index
        self._lanes = lanes_of_worker(plan.order.lanes, plan.job.workers, index)
        self._gradient = Gradient(plan.job)
        self._readers: dict[str, Reader] = {}
        self._memory: Memory | None = None
        self._ring: RingReader | None = None
        self._waited, self._streamed = 0.0, Loading()
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
        job = self._plan.job
        if isinstance(job.aggregation, Stale):
            assert isinstance(meeting, Handle)
            memory = self._opened(meeting)
            self._exchange = Pool(memory, self._aggregator(worker=0, workers=1), open_file(meeting))
            return
        self._exchange = self._collective(meeting) if isinstance(meeting, Address) else self._shared(meeting, processes)
        self._begin(ring)

    def extend(self, plan: Plan, ring: RingHandle | None) -> None:
        """Goes on with a data set that has grown; ``ring`` as in ``join``, from the present step on."""
        self._plan = plan
        for reader in self._readers.values():
            reader.extend(plan.manifest)
        if self._ring is not None:
            self._streamed += self._ring.loading
        if not isinstance(self._exchange, Pool):
            self._begin(ring)

    def _begin(self, ring: RingHandle | None) -> None:
        """Makes the loop that `advance` drives, from the exchange's step on."""
        plan, exchange = self._plan, self._exchange
        assert not isinstance(exchange, Pool)
        if ring is None:
            selections = selections_of(plan, self._lanes, exchange.step)
            arrays = selections_read(self._reader("train", lanes=True), selections)
        else:
            self._ring = RingReader(ring)
            arrays = selections_streamed(self._ring)
        self._updates: Iterator[Update] = updates(
            plan.order, self._lanes, self._timed(arrays), self._gradient, exchange, plan.job.seed
        )

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
                plan, pool = self._plan, self._exchange
                made = pooled_updates(
                    plan.order, plan.pass_orders, self._read, self._gradient, pool, plan.job.seed, until=step
                )
                return list(made)
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

    def distance(self) -> float:
        """Euclidean distance of the current parameters from the initial ones, which follow from the seed again."""
        self._load()
        start = dict(build_model(self._plan.job).named_parameters())
        with torch.no_grad():
            ways = [p.cpu() - start[name] for name, p in self._gradient.model.named_parameters()]
            return math.hypot(*(float(torch.linalg.vector_norm(way)) for way in ways))

    def restore(self, parameters: dict[str, torch.Tensor]) -> None:
        """Makes a state dict the current state, without momentum; every worker is told."""
        if self._index == 0 or self._memory is None:
            self._gradient.write(self._exchange.state, parameters)
        self._gradient.forget()

    def loading(self) -> Loading:
        """What reading has cost this worker so far, and its streamer."""
        own = sum((reader.loading for reader in self._readers.values()), Loading(waited=self._waited))
        return own + self._streamed + (Loading() if self._ring is None else self._ring.loading)

    def skipped(self) -> dict[tuple[str, int], Skip]:
        """Bad examples that this worker itself passed over, by split and number in the stored order."""
        return {place: skip for reader in self._readers.values() for place, skip in reader.skips.items()}

    def _timed(self, arrays: Iterator[Arrays]) -> Iterator[Arrays]:
        """The same arrays; the time that they kept the worker waiting goes to its account."""
        while True:
            asked = time.perf_counter()
            examples = next(arrays, None)
            self._waited += time.perf_counter() - asked
            if examples is None:
                return
            yield examples

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
        return SharedExchange(self._opened(handle), aggregator, self._hosting, self._index, processes)

    def _collective(self, address: Address) -> Exchange:
        job, device = self._plan.job, torch.device(self._plan.job.device)
        membership = Membership(self._index, self._hosting)
        halves = private_halves(self._gradient.layout, job.sgd, device)
        self._gradient.write(halves[0], self._gradient.model.state_dict())
        join_group(address, membership, device)
        aggregator = self._aggregator(self._index, job.workers)
        return CollectiveExchange(self._gradient.layout, aggregator, halves, membership, step=0)

    @property
    def _hosting(self) -> tuple[range, ...]:
        """Every worker's lanes."""
        workers = self._plan.job.workers
        return tuple(lanes_of_worker(self._plan.order.lanes, workers, worker) for worker in range(workers))

    def _aggregator(self, worker: int, workers: int) -> Aggregator:
        job = self._plan.job
        return Aggregator(
            self._gradient.layout,
            job.sgd,
            batch_size=job.batch_size,
            total_steps=self._plan.total_steps,
            worker=worker,
            workers=workers,
            norms_every=job.tracking.log_every if job.tracking.diagnostics else 0,
        )

    def _read(self, selection: Selection) -> Arrays:
        """A part that came from the pool."""
        asked = time.perf_counter()
        examples = self._reader("train", lanes=True).select(selection)
        self._waited += time.perf_counter() - asked
        return examples

    def _load(self) -> None:
        """What is evaluated and returned: the parameters, or their average."""
        state = self._exchange.state
        self._gradient.load(state, state.evaluated)

    def _reader(self, split: str, *, lanes: bool = False) -> Reader:
        name = f"{split} of the lanes" if lanes else split
        if name not in self._readers:
            self._readers[name] = self._plan.reader(split, lanes=lanes)
        return self._readers[name]


def keep_freed_memory() -> None:
    """Has the C library keep what is freed: every step takes the same memory again.

    Else it gives the large activations of a step back to the kernel, which has to clear every page again: a seventh
    of a step of a small CNN. Other C libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class WorkersStreamer(Streamer):
    """The streamer of worker ``index``: reads and decodes its lanes' parts ahead of it, from global ``step`` on."""

    def __init__(self, plan: Plan, index: int, step: int = 0) -> None:
        order = plan.order
        lanes = lanes_of_worker(order.lanes, plan.job.workers, index)
        selections = selections_of(plan, lanes, step)
        super().__init__(plan.reader("train", lanes=True), selections, largest=order.batch_size // order.lanes)


def selections_of(plan: Plan, lanes: range, step: int) -> Iterator[Selection]:
    """What the worker that hosts ``lanes`` reads from global ``step`` on."""
    return selections_from(plan.order, plan.pass_orders, lanes, step, plan.total_steps)

"""A worker: hosts some lanes, computes their gradients, takes part in the exchange.

A plain class, made an actor in `actors`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import torch

from streamtrain.aggregate.host import HostExchange
from streamtrain.aggregate.memory import Handle, Memory, block_size, open_block, private_block, shared_block
from streamtrain.gradient import Gradient, build_model
from streamtrain.order import lanes_of_worker
from streamtrain.prepare.plan import Plan
from streamtrain.run.loop import parts_from, updates
from streamtrain.stream.reader import Reader
from streamtrain.stream.ring import RingHandle
from streamtrain.stream.streamer import Streamer, parts_read, parts_streamed
from streamtrain.values import Risk, Update


class Worker:
    """See the module.

    Calls come in this order: ``make_memory`` of worker 0, ``join`` of all, then ``advance``, ``evaluate``
    and ``snapshot`` as often as wanted.
    """

    def __init__(self, plan: Plan, index: int) -> None:
        torch.set_num_threads(plan.job.threads)
        self._plan, self._index = plan, index
        self._lanes = lanes_of_worker(plan.order.lanes, plan.job.workers, index)
        self._gradient = Gradient(plan.job)
        self._readers: dict[str, Reader] = {}
        self._memory: Memory | None = None

    def process_number(self) -> int:
        """The operating system's number of this process."""
        return os.getpid()

    def make_memory(self) -> Handle | None:
        """Makes the block in which the workers meet, with the initial state; ``None`` where there is one worker."""
        layout, lanes, workers = self._gradient.layout, self._plan.order.lanes, self._plan.job.workers
        size = block_size(layout, lanes, workers)
        block, handle = (private_block(size), None) if workers == 1 else shared_block(size)
        self._memory = Memory(layout, lanes, workers, block)
        self._gradient.write(self._memory.halves[0], self._gradient.model.state_dict())
        return handle

    def join(self, handle: Handle | None, processes: Mapping[int, int], ring: RingHandle | None) -> None:
        """Enters the exchange.

        Args:
            handle: of the block that worker 0 made.
            processes: process number of every worker.
            ring: of this worker's streamer; ``None`` where the worker reads itself.
        """
        job, order = self._plan.job, self._plan.order
        if self._memory is None:
            assert handle is not None
            self._memory = Memory(self._gradient.layout, order.lanes, job.workers, open_block(handle))
        norms_every = job.tracking.log_every if job.tracking.diagnostics else 0
        self._exchange = HostExchange(
            self._memory, self._gradient.layout, job.sgd, self._plan.total_steps, self._index, processes, norms_every
        )
        if ring is None:
            parts = parts_from(order, self._lanes, self._exchange.step, self._plan.total_steps)
            arrays = parts_read(self._reader("train"), parts)
        else:
            arrays = parts_streamed(ring)
        self._updates: Iterator[Update] = updates(order, self._lanes, arrays, self._gradient, self._exchange, job.seed)

    def advance(self, step: int) -> list[Update]:
        """Trains until ``step`` updates are in the state; worker 0 returns them, since all have the same.

        Raises:
            NonFiniteError, JobError, DataError: the state is that of the last good step.
            WorkerLost: another worker died or gave up.
        """
        try:
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
        if self._index == 0:
            self._gradient.write(self._exchange.halves[self._exchange.step % 2], parameters)
        self._gradient.forget()

    def _load(self) -> None:
        self._gradient.load(self._exchange.halves[self._exchange.step % 2])

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

"""Real steps of small models in the processes of a `Crew`: what their end state is, by either exchange."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import streamtrain.aggregate.exchange.pool as pool_module
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.collective.exchange import CollectiveExchange
from streamtrain.aggregate.exchange.collective.group import Address, Membership, join_group, open_store
from streamtrain.aggregate.exchange.collective.wire import Wire, connect
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.device_exchange import DeviceExchange
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    DeviceMemory,
    Handle,
    Memory,
    block_size,
    open_block,
    open_file,
    private_memory,
    shared_block,
)
from streamtrain.aggregate.exchange.pool import Claim, Pool
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.job import Average, Clip, Data, Group, Job, Schedule
from streamtrain.model.gradient import Gradient
from streamtrain.order import Order, hosting_of, passes_of, select_lanes
from streamtrain.run.fleet.processes.audit import Audit
from streamtrain.run.fleet.processes.clock import Clock
from streamtrain.run.loop import pooled_updates, updates
from streamtrain.values import Arrays, Selection, Update
from tests.support.crew import Crew

LANES, BATCH, EXAMPLES = 8, 40, 316
"""The last minibatch of a pass is short: four lanes have five examples left in it, four have four."""
TIME, WIDTH, CLASSES = 4, 16, 5
STORED = passes_of("stored", EXAMPLES, [], 0)


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(WIDTH, 16, batch_first=True)
        self.head = torch.nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.gru(x)[0][:, -1])
        return output


class Transformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(TIME, 16))
        self.into = torch.nn.Linear(WIDTH, 16)
        layer = torch.nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, dropout=0.1, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 1)
        self.head = torch.nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.layers(self.into(x) + self.place).mean(1))
        return output


def mlp() -> torch.nn.Module:
    """Of several pieces of the vector."""
    first, second = torch.nn.Linear(TIME * WIDTH, 500), torch.nn.Linear(500, 300)
    return torch.nn.Sequential(
        torch.nn.Flatten(), first, torch.nn.ReLU(), second, torch.nn.ReLU(), torch.nn.Linear(300, CLASSES)
    )


def cnn() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, TIME)),
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(8 * TIME * WIDTH // 4, CLASSES),
    )


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "gru": Recurrent,
    "transformer": Transformer,
}
PLAIN = Descent(SGD(lr=0.05, momentum=0.9))
FULL = Descent(
    SGD(lr=0.05, momentum=0.9, dampening=0.1, weight_decay=1e-4),
    clip=Clip(value=0.5, norm=1.0),
    average=Average(0.9),
    schedule=Schedule("cosine", warmup_steps=10),
    groups=(Group("*bias*", weight_decay=0.0), Group("*[1h]*", clip=Clip(adaptive=0.05))),
)


def job_of(model: str, descent: Descent, precision: Any = "float32") -> Job:
    data = Data("unused", inputs=("x",))
    return Job(data, MODELS[model], **vars(descent), batch_size=BATCH, lanes=LANES, seed=3, precision=precision)


@functools.cache
def data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(EXAMPLES, TIME, WIDTH)).astype(np.float32)
    return x, (x.mean((1, 2)) * 20).round().astype(np.int64) % CLASSES


def arrays_of(order: Order, lanes: range, step: int, steps: int) -> Iterator[Arrays]:
    x, labels = data()
    for selection in select_lanes(order, STORED, lanes, step, steps):
        ((start, stop),) = selection.runs
        yield {"x": x[start:stop], "label": labels[start:stop]}


class Member:
    """One worker of a run, in one process of a crew."""

    def __init__(
        self, model: str, descent: Descent, worker: int, workers: int, steps: int, precision: str = "float32"
    ) -> None:
        self.descent = descent
        self.job = job_of(model, descent, precision)
        self.order, self.steps = Order(EXAMPLES, LANES, BATCH), steps
        self.take_seat(worker, workers)
        self.gradient = Gradient(self.job)
        self.audit = Audit(self.gradient.layout)
        self.memory: Memory | None = None
        self.exchange: Exchange | Pool
        self.ahead = False

    def take_seat(self, worker: int, workers: int) -> None:
        self.worker, self.workers = worker, workers
        self.hosting = hosting_of(LANES, workers)
        self.lanes = self.hosting[worker]

    def aggregator(self, worker: int, workers: int) -> Aggregator:
        return Aggregator(
            self.gradient.layout,
            self.descent,
            rate_of=LearningRate(self.descent.schedule, BATCH, self.steps),
            worker=worker,
            workers=workers,
        )

    def make_block(self) -> Handle:
        layout = self.gradient.layout
        block, handle = shared_block(block_size(layout, self.descent, Capacity(LANES, self.workers)))
        self.memory = Memory(layout, self.descent, Capacity(LANES, self.workers), block)
        self.gradient.write(self.memory.states[0], self.gradient.model.state_dict())
        return handle

    def join_shared(self, handle: Handle, processes: Sequence[int]) -> None:
        if self.memory is None:
            self.memory = Memory(self.gradient.layout, self.descent, Capacity(LANES, self.workers), open_block(handle))
        self.exchange = SharedExchange(
            self.memory,
            self.aggregator(self.worker, self.workers),
            self.hosting,
            self.worker,
            dict(enumerate(processes)),
        )

    def join_collective(self, address: Address, step: int = 0, lost_after: float = 10.0) -> None:
        """Every worker as a host of its own."""
        if self.memory is None:
            layout, descent = self.gradient.layout, self.descent
            self.memory = private_memory(layout, descent, Capacity(LANES))
            self.gradient.write(self.memory.states[0], self.gradient.model.state_dict())
        self.memory.reset(step)
        hosts, crew = Membership(self.worker, tuple(self.hosting)), Membership(0, (self.lanes,))
        self.collect(hosts, crew, {0: os.getpid()}, connect(address, hosts, lost_after))

    def join_device(self, address: Address) -> None:
        """As a worker with a GPU joins; the CPU is the device."""
        device, members, aggregator = (
            torch.device("cpu"),
            Membership(self.worker, tuple(self.hosting)),
            self.aggregator(self.worker, self.workers),
        )
        memory = DeviceMemory(self.gradient.layout, self.descent, LANES, self.lanes, device)
        self.gradient.write(memory.states[0], self.gradient.model.state_dict())
        if self.workers > 1:
            join_group(address, members, device)
        arithmetic = DeviceArithmetic(aggregator, device)
        self.exchange = DeviceExchange(self.gradient.layout, aggregator, arithmetic, memory, members)

    def join_hosts(self, address: Address, sizes: Sequence[int], handle: Handle, processes: Sequence[int]) -> None:
        """So many workers on each host, the first of which has made its block."""
        ends = list(itertools.accumulate(sizes))
        host = bisect.bisect_right(ends, self.worker)
        first, end = ends[host] - sizes[host], ends[host]
        crew = Membership(self.worker - first, tuple(self.hosting[first:end]))
        lanes = [self.hosting[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        hosts = Membership(host, tuple(range(each[0].start, each[-1].stop) for each in lanes))
        if self.memory is None:
            self.memory = Memory(self.gradient.layout, self.descent, Capacity(LANES, self.workers), open_block(handle))
        wire = None if crew.worker else connect(address, hosts)
        self.collect(hosts, crew, dict(enumerate(processes[first:end])), wire)

    def collect(self, hosts: Membership, crew: Membership, processes: Mapping[int, int], wire: Wire | None) -> None:
        assert self.memory is not None
        self.gradient.forget()
        aggregator = self.aggregator(crew.worker, crew.workers)
        ahead = self.gradient.parameters if self.ahead else ()
        layout = self.gradient.layout
        self.exchange = CollectiveExchange(layout, aggregator, self.memory, hosts, crew, processes, wire, ahead)

    def train(self, until: int | None = None) -> None:
        assert not isinstance(self.exchange, Pool)
        step = self.exchange.step
        arrays = arrays_of(self.order, self.lanes, step, self.steps)
        running = updates(
            self.order, self.lanes, arrays, self.gradient, self.exchange, self.audit, Clock(), self.job.seed
        )
        for _ in itertools.islice(running, (self.steps if until is None else until) - step):
            pass

    def make_pool(self, bound: int, backup: int = 0) -> Handle:
        layout, descent = self.gradient.layout, self.descent
        block, handle = shared_block(block_size(layout, descent, Capacity(LANES, self.workers, bound + 1, backup)))
        self.memory = Memory(layout, descent, Capacity(LANES, self.workers, bound + 1, backup), block)
        self.gradient.write(self.memory.states[0], self.gradient.model.state_dict())
        return handle

    def join_pool(self, handle: Handle, bound: int, backup: int = 0, pass_steps: int = 0) -> Pool:
        if self.memory is None:
            layout, descent = self.gradient.layout, self.descent
            self.memory = Memory(layout, descent, Capacity(LANES, self.workers, bound + 1, backup), open_block(handle))
        self.worker, self.workers = 0, 1  # whoever makes an update makes all of it
        self.exchange = pool = Pool(
            self.memory, self.aggregator(self.worker, self.workers), open_file(handle), pass_steps
        )
        return pool

    def read(self, selection: Selection) -> Arrays:
        x, labels = data()
        ((start, stop),) = selection.runs
        return {"x": x[start:stop], "label": labels[start:stop]}

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for part in self.exchange.state.parts.values():
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


HERE: dict[str, Any] = {}


def start(model: str, descent: Descent, worker: int, workers: int, steps: int, precision: str = "float32") -> int:
    """First half of joining: this process's number."""
    HERE["member"] = Member(model, descent, worker, workers, steps, precision)
    return os.getpid()


def make_block() -> Handle:
    handle: Handle = HERE["member"].make_block()
    return handle


def make_store(host: str) -> Address:
    address, HERE["store"] = open_store(host)
    return address


def train_shared(handle: Handle, processes: Sequence[int]) -> str:
    member: Member = HERE["member"]
    member.join_shared(handle, processes)
    member.train()
    return member.sha256()


def train_collective(address: Address, join: str = "join_collective") -> str:
    member: Member = HERE["member"]
    getattr(member, join)(address)
    try:
        member.train()
        return member.sha256()
    finally:
        member.exchange.abandon()


def make_pool(bound: int, backup: int = 0) -> Handle:
    handle: Handle = HERE["member"].make_pool(bound, backup)
    return handle


class Leaves(Exception):
    """A worker has had its share of claims."""


def take_part(
    handle: Handle, bound: int, claims: int | None = None, dies: str | None = None
) -> tuple[list[Update], str]:
    """Takes so many claims from a pool, or all until the end; the updates made, and the state left."""
    member: Member = HERE["member"]
    pool = member.join_pool(handle, bound)
    if dies == "updating":
        pool_module.update_buffers = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    taken: list[Claim] = []
    claim = pool.claim

    def limited(until: int) -> Claim | None:
        if len(taken) == claims:
            if dies == "holding a claim":
                claim(until)
                os.kill(os.getpid(), signal.SIGKILL)
            raise Leaves
        found = claim(until)
        taken.extend([found] if found else [])
        return found

    pool.claim = limited  # type: ignore[method-assign]
    updates = pooled_updates(
        member.order, STORED, member.read, member.gradient, pool, Clock(), member.job.seed, until=member.steps
    )
    made: list[Update] = []
    with contextlib.suppress(Leaves):
        for update in updates:
            made.append(update)
    return made, member.sha256()


Brought = list[tuple[int, int, int]]
"""Parts, as (step that used it, step of the part, lane)."""


def take_part_with_backup(
    handle: Handle, backup: int, pass_steps: int, lags: bool
) -> tuple[list[Update], Brought, dict[str, NDArray[np.float64]]]:
    """All steps with backup lanes; the updates made, the parts that were brought in time, and the parameters.

    One who lags begins a part and does not go on with it before its minibatch is over, but where that cannot be.
    """
    member: Member = HERE["member"]
    pool, brought = member.join_pool(handle, 0, backup, pass_steps), Brought()
    claim, finish = pool.claim, pool.finish

    def lagging(until: int) -> Claim | None:
        found = claim(until)
        while lags and found and pool.step == found.step and not (pass_steps and (pool.step + 1) % pass_steps == 0):
            pool.wait(found.step)
        return found

    def noted(found: Claim) -> bool:
        in_time = finish(found)
        brought.extend([(found.step, found.of, found.lane)] * in_time)
        return in_time

    pool.claim, pool.finish = lagging, noted  # type: ignore[method-assign]
    updates = list(
        pooled_updates(
            member.order, STORED, member.read, member.gradient, pool, Clock(), member.job.seed, until=member.steps
        )
    )
    parameters = member.exchange.state.parameters
    named = {place.name: place.view(parameters).numpy().copy() for place in member.gradient.layout.parameters}
    return updates, brought, named


def hashes(crew: Crew, exchange: str, model: str, descent: Descent, workers: int, steps: int) -> set[str]:
    """The end states of all workers, as SHA-256 of parameters, optimizer state and buffers."""
    processes = crew.all(start, [(model, descent, worker, workers, steps) for worker in range(workers)])
    if exchange == "shared":
        (handle,) = crew.all(make_block, [()])
        return set(crew.all(train_shared, [(handle, processes)] * workers))
    (address,) = crew.all(make_store, [("127.0.0.1",)])
    return set(crew.all(train_collective, [(address, f"join_{exchange}")] * workers))


__all__ = ["FULL", "MODELS", "PLAIN", "hashes"]

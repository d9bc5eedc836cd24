"""How long the workers of one host need to make their gradients one update, against gloo's all-reduce.

    python -m tests.benchmarks.exchange [--json] [--workers 2] [--megabytes 1] [--rounds 20]

Ours is all of `Exchange.meet`: sum over one lane a worker, squared norm, SGD with momentum, new
parameters everywhere. The peer is `torch.distributed.all_reduce` of the same size alone, without the
optimizer's step. A ratio is ours over gloo's time: the median of alternating rounds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate
from streamtrain.aggregate.exchange.collective.exchange import CollectiveExchange
from streamtrain.aggregate.exchange.collective.group import Address, Membership, open_store
from streamtrain.aggregate.exchange.collective.wire import connect
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.memory import (
    Capacity,
    Handle,
    Memory,
    block_size,
    open_block,
    private_memory,
    shared_block,
)
from streamtrain.aggregate.exchange.shared import SharedExchange
from streamtrain.aggregate.moments import write_moments
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import Layout, layout_of
from streamtrain.values import Moments
from tests.benchmarks.rounds import Processes, alternate, machine, ratio

STEPS = 50
SETTINGS = Descent(SGD(lr=0.01, momentum=0.9))


def layout_of_size(megabytes: float) -> Layout:
    """One parameter of so many float32."""
    return layout_of(torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(int(megabytes * 2**18)))]))


def rounds_of(pipe: Connection, step: Callable[[], Any]) -> None:  # type: ignore[type-arg]
    """Answers every message with the seconds of so many steps."""
    pipe.send("ready")
    while pipe.recv() is not None:
        step()  # those who were woken late are waited for here
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        pipe.send((time.perf_counter() - began) / STEPS)


def gloo(pipe: Connection, rank: int, world: int, megabytes: float, folder: str) -> None:  # type: ignore[type-arg]
    """The peer."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/gloo", rank=rank, world_size=world)
    gradient = torch.zeros(int(megabytes * 2**18))
    rounds_of(pipe, lambda: torch.distributed.all_reduce(gradient))


def ours(
    pipe: Connection,  # type: ignore[type-arg]
    rank: int,
    world: int,
    kind: str,
    megabytes: float,
    folder: str,
    host: str = "127.0.0.1",
) -> None:
    """A worker without a model: its lane's gradient stays where it is. ``host`` is the first one's address."""
    torch.set_num_threads(1)
    layout = layout_of_size(megabytes)
    aggregator = Aggregator(
        layout, SETTINGS, rate_of=LearningRate(SETTINGS.schedule, world, 1), worker=rank, workers=world
    )
    if kind == "shared":
        exchange = shared(Path(folder), layout, aggregator, rank, world)
    else:
        exchange = collective(Path(folder), layout, rank, world, host)
    write_moments(exchange.slot(rank), Moments(1), Moments(1))
    exchange.slot(rank).used.fill(1)
    rounds_of(pipe, exchange.meet)


def shared(folder: Path, layout: Layout, aggregator: Aggregator, rank: int, world: int) -> Exchange:
    """Its workers find each other by files."""
    if rank == 0:
        block, handle = shared_block(block_size(layout, SETTINGS, Capacity(world, world)))
        tell(folder / "handle", handle.process, handle.descriptor)
    else:
        block = open_block(Handle(*told(folder / "handle")))
    tell(folder / f"process{rank}", os.getpid())
    processes = {peer: told(folder / f"process{peer}")[0] for peer in range(world)}
    hosting = [range(worker, worker + 1) for worker in range(world)]
    return SharedExchange(Memory(layout, SETTINGS, Capacity(world, world), block), aggregator, hosting, rank, processes)


def collective(folder: Path, layout: Layout, rank: int, world: int, host: str) -> Exchange:
    """The same, by torch.distributed: every worker as a host of its own."""
    if rank == 0:
        address, store = open_store(host)
        tell(folder / "port", address.port)
    address = Address(host, told(folder / "port")[0])
    hosts = Membership(rank, tuple(range(worker, worker + 1) for worker in range(world)))
    memory = private_memory(layout, SETTINGS, Capacity(world))
    whole = Aggregator(layout, SETTINGS, rate_of=LearningRate(SETTINGS.schedule, world, 1), worker=0, workers=1)
    crew = Membership(0, (hosts.hosting[rank],))
    exchange = CollectiveExchange(layout, whole, memory, hosts, crew, {0: os.getpid()}, connect(address, hosts))
    if rank == 0:
        exchange.store = store  # type: ignore[attr-defined]  # as long as the exchange lives
    return exchange


def tell(file: Path, *numbers: int) -> None:
    """Numbers for the others, whole or not at all."""
    file.with_suffix(".part").write_text(json.dumps(numbers))
    file.with_suffix(".part").rename(file)


def told(file: Path) -> list[int]:
    """Numbers of another, once they are there."""
    while not file.exists():
        time.sleep(0.01)
    numbers: list[int] = json.loads(file.read_text())
    return numbers


def measured(workers: int, megabytes: float, rounds: int, *, peer: bool = True) -> dict[str, list[float]]:
    """Seconds a step of every contestant, by round."""
    with tempfile.TemporaryDirectory() as folder:
        starts = {
            "gloo": functools.partial(Processes, gloo, workers, megabytes, folder),
            "shared": functools.partial(Processes, ours, workers, "shared", megabytes, folder),
            "collective": functools.partial(Processes, ours, workers, "collective", megabytes, folder),
        }
        if not peer:
            del starts["gloo"]
        contestants = {}
        for name, start in starts.items():
            contestants[name] = start()
        try:
            return alternate(contestants, rounds, patience=0 if rounds < 10 else 30)
        finally:
            for contestant in contestants.values():
                contestant.stop()


def main() -> None:
    """Prints times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    seconds = measured(arguments.workers, arguments.megabytes, arguments.rounds)
    size = f"{arguments.megabytes:g}mb"
    ratios = {f"{who}_vs_gloo_{size}": ratio(seconds[who], seconds["gloo"]) for who in ("shared", "collective")}
    times = {who: {"median": statistics.median(each) * 1e3, "best": min(each) * 1e3} for who, each in seconds.items()}
    if arguments.json:
        print(json.dumps({"ratios": ratios, "milliseconds": times, "machine": machine()}))
        return
    for name, value in ratios.items():
        print(f"{name:28s} {value:8.2f}")
    for name, found in times.items():
        print(f"{name:28s} {found['median']:8.2f} ms a step, {found['best']:.2f} ms at best")


if __name__ == "__main__":
    main()

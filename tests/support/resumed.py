"""Runs of a `Crew` whose workers are lost, join and leave, and that go on from checkpoints with more or fewer."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.torch import load, save

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.collective.group import Address
from streamtrain.aggregate.exchange.memory import Handle
from streamtrain.aggregate.saved import collect_tensors, restore
from tests.support.between_hosts import train_until_lost
from tests.support.crew import Crew
from tests.support.steps import HERE, Member, make_block, make_store, start

Saved = tuple[bytes, int]
"""What a checkpoint's file has in it, and its step."""


def go_on_until(address: Address, worker: int, workers: int, step: int, until: int) -> Saved:
    """A new group of hosts, from ``step`` on."""
    member: Member = HERE["member"]
    member.take_seat(worker, workers)
    member.join_collective(address, step)
    try:
        member.train(until)
        return save_state(member)
    finally:
        member.exchange.abandon()


def begin_from(saved: Saved) -> Handle:
    """A block with a checkpoint's state, of a process that has started."""
    member: Member = HERE["member"]
    handle = make_block()
    data, step = saved
    assert member.memory is not None
    member.memory.reset(step)
    restore(member.gradient.layout, member.memory.states[step % 2], load(data))
    return handle


def train_until(handle: Handle, processes: Sequence[int], until: int) -> tuple[Saved, str]:
    """By shared memory; what would be saved then, and the state's SHA-256."""
    member: Member = HERE["member"]
    member.join_shared(handle, processes)
    member.train(until)
    return save_state(member), member.sha256()


def save_state(member: Member) -> Saved:
    """As a checkpoint has it."""
    return save(collect_tensors(member.gradient.layout, member.exchange.state)), member.exchange.step


def lose_one(crew: Crew, model: str, descent: Descent, steps: int, *, lost_in: int, until: int) -> Saved:
    """Three hosts, the last of which is killed in a step; the others go on."""
    crew.all(start, [(model, descent, worker, 3, steps) for worker in range(3)])
    (address,) = crew.all(make_store, [("127.0.0.1",)])
    for worker in range(3):
        crew.start(worker, train_until_lost, address, lost_in, "computing" if worker == 2 else None)
    step = min(crew.result(worker) for worker in range(2))
    (address,) = crew.all(make_store, [("127.0.0.1",)])
    first, second = crew.all(go_on_until, [(address, worker, 2, step, until) for worker in range(2)])
    assert first == second
    saved: Saved = first
    return saved


def resume(
    crew: Crew, model: str, descent: Descent, steps: int, saved: Saved, *, workers: Sequence[int], until: int
) -> tuple[Saved, set[str]]:
    """On one host, by processes of the crew; the next checkpoint, and the SHA-256 of all workers' states."""
    processes = []
    for place, each in enumerate(workers):
        crew.start(each, start, model, descent, place, len(workers), steps)
        processes.append(crew.result(each))
    crew.start(workers[0], begin_from, saved)
    handle = crew.result(workers[0])
    for each in workers:
        crew.start(each, train_until, handle, processes, until)
    found = [crew.result(each) for each in workers]
    return found[0][0], {sha256 for _, sha256 in found}

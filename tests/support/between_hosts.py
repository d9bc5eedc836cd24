"""Steps of workers on several hosts, in the processes of a `Crew`, and what is left when one is lost."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence

import pytest

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.collective import bucket
from streamtrain.aggregate.exchange.collective.ahead import Ahead
from streamtrain.aggregate.exchange.collective.group import Address
from streamtrain.aggregate.exchange.collective.mail import Mail
from streamtrain.aggregate.exchange.memory import Handle
from streamtrain.errors import WorkerLost
from tests.support.crew import Crew
from tests.support.steps import HERE, Member, make_block, make_store, start


def train_hosts(address: Address, sizes: Sequence[int], handle: Handle, processes: Sequence[int]) -> str:
    member: Member = HERE["member"]
    member.join_hosts(address, sizes, handle, processes)
    try:
        member.train()
        return member.sha256()
    finally:
        member.exchange.abandon()


def train_ahead(address: Address, bucket_bytes: int) -> tuple[str, int]:
    """With buckets that go while backward makes others: the end state, and how many went so."""
    member: Member = HERE["member"]
    member.ahead = True
    went = 0

    def counted(each: Ahead) -> None:
        nonlocal went
        went += each._next

    end = Ahead.end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "SIZE", bucket_bytes)
        patch.setattr(Ahead, "end", lambda each: (counted(each), end(each)))
        member.join_collective(address)
        try:
            member.train()
            return member.sha256(), went
        finally:
            member.exchange.abandon()


def train_until_lost(address: Address, step: int, dies: str | None = None) -> int:
    """Trains until a peer is lost; the steps that were made. This one ``dies`` in ``step``, computing or meeting."""
    member: Member = HERE["member"]
    member.join_collective(address)
    if dies is not None:
        member.train(until=step)
        if dies == "meeting":
            Mail.wait = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
            member.train()
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        member.train()
    except WorkerLost:
        member.exchange.abandon()
    return member.exchange.step


def go_on(address: Address, worker: int, workers: int, step: int) -> str:
    """The survivors' new group, from a step that all of them have, to the end."""
    member: Member = HERE["member"]
    member.take_seat(worker, workers)
    member.join_collective(address, step)
    try:
        member.train()
        return member.sha256()
    finally:
        member.exchange.abandon()


def hashes_of_hosts(crew: Crew, model: str, descent: Descent, sizes: Sequence[int], steps: int) -> set[str]:
    """The same where so many workers are on each host."""
    workers = sum(sizes)
    processes = crew.all(start, [(model, descent, worker, workers, steps) for worker in range(workers)])
    (address,) = crew.all(make_store, [("127.0.0.1",)])
    handles = []
    for first, size in zip([0, *itertools.accumulate(sizes)], sizes, strict=False):
        crew.start(first, make_block)
        handles += [crew.result(first)] * size
    return set(crew.all(train_hosts, [(address, sizes, handle, processes) for handle in handles]))

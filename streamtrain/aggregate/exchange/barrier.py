"""Where the workers of one host wait for each other, without Ray and without a lock.

Each worker counts its arrivals in a cache line of its own and waits until nobody is behind. It first
offers its core to others in turns, since peers usually arrive within microseconds and the shortest
sleep takes five times as long as it says; then it sleeps in short turns, so that it never holds a core
that a slower peer needs. While it sleeps it looks for dead or failed peers.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping
from typing import Protocol

from streamtrain.errors import WorkerLost

YIELDING_SECONDS = 300e-6
SLEEP_SECONDS = 50e-6
LOOK_EVERY = 20
"""Sleeps between two looks at the peers."""


class Barrier(Protocol):
    """Where workers wait for each other."""

    def wait(self) -> None:
        """Returns when all workers have called it as often as this one; raises `WorkerLost` when one cannot."""

    def abandon(self) -> None:
        """This worker gives up: peers that wait, now or later, raise `WorkerLost`."""


class Alone:
    """The barrier of a single worker."""

    def wait(self) -> None:
        """Nobody to wait for."""

    def abandon(self) -> None:
        """Nobody to tell."""


class SharedBarrier:
    """A barrier in shared words.

    Args:
        failed: one word, 0 while nobody has given up.
        arrivals: one word for each worker, in cache lines of their own.
        worker: index of this worker.
        processes: process numbers of the other workers, by worker.
    """

    def __init__(
        self, failed: memoryview, arrivals: list[memoryview], worker: int, processes: Mapping[int, int]
    ) -> None:
        self._failed, self._arrivals, self._worker = failed, arrivals, worker
        self._peers = [line for index, line in enumerate(arrivals) if index != worker]
        self._count = arrivals[worker][0]
        self._poll = select.poll()
        self._worker_of: dict[int, tuple[int, int]] = {}
        for peer, process in processes.items():
            descriptor = os.pidfd_open(process)
            self._worker_of[descriptor] = (peer, process)
            self._poll.register(descriptor, select.POLLIN)

    def wait(self) -> None:
        """Returns when every worker has arrived as often as this one.

        Raises:
            WorkerLost: a peer died or gave up.
        """
        self._count = count = self._count + 1
        self._arrivals[self._worker][0] = count
        for peer in self._peers:
            if peer[0] < count:
                self._wait_for(peer, count)

    def abandon(self) -> None:
        """Tells the peers that this worker will not arrive again."""
        self._failed[0] = self._worker + 1

    def _wait_for(self, peer: memoryview, count: int) -> None:
        until = time.perf_counter() + YIELDING_SECONDS
        while time.perf_counter() < until:
            if peer[0] >= count:
                return
            os.sched_yield()
        sleeps = 0
        while peer[0] < count:
            time.sleep(SLEEP_SECONDS)
            sleeps += 1
            if sleeps % LOOK_EVERY == 0:
                self._look_at_peers()

    def _look_at_peers(self) -> None:
        if self._failed[0]:
            raise WorkerLost(f"worker {self._failed[0] - 1} gave up, so the others cannot go on")
        for descriptor, _ in self._poll.poll(0):
            peer, process = self._worker_of[descriptor]
            raise WorkerLost(f"worker {peer} (process {process}) died in the middle of a step")

"""Where the workers of one host wait for each other, without Ray and without a lock.

Each worker counts its arrivals in a cache line of its own and waits until nobody is behind: at first by
offering its core to others in turns, since peers usually arrive within microseconds and waking up costs
tens of them; then asleep in the kernel (a futex on the peer's counter), so that it never holds a core
that a slower peer needs. How long it stays awake adapts: doubled when that was worth it, halved when not.
Who sleeps says so beside its counter, and nobody calls the kernel for those who do not. (A load may pass a store
before it, so an arrival can miss that its peer has just fallen asleep: that one then looks around by itself.)

Counters are plain words: what a worker wrote before it arrived is seen by whoever sees it arrive, since it publishes
that first (`memory_order`, which says why this is enough on each kind of machine).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from collections.abc import Mapping
from typing import Protocol

from streamtrain.errors import WorkerLost
from streamtrain.memory_order import calls_here, publish
from streamtrain.processes import watch

AWAKE_SECONDS = (10e-6, 300e-6)
"""Shortest and longest wait before sleeping."""
LOOK_SECONDS = 0.02
"""Between two looks at the peers while asleep."""
CACHE_LINE = 64
WORDS_A_LINE = CACHE_LINE // 8
"""A worker's words have a line of their own: else each write takes the line from all who read another's word."""
COUNT, ASLEEP = 0, 1
"""Of a worker's words: arrivals, and 1 while it sleeps."""
FUTEX_WAIT, FUTEX_WAKE = 0, 1
"""Of Linux: futex(2)."""
_calls = calls_here()
_futex = _calls.futex if _calls else -1
"""Number of the call; one that no kernel has where memory cannot be shared."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


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
        arrivals: two words for each worker, in cache lines of their own.
        worker: index of this worker.
        processes: process numbers of the other workers, by worker.
    """

    def __init__(
        self, failed: memoryview, arrivals: list[memoryview], worker: int, processes: Mapping[int, int]
    ) -> None:
        self._failed = failed
        self._arrival = arrivals[worker]
        self._peers = [line for index, line in enumerate(arrivals) if index != worker]
        self._count = arrivals[worker][COUNT]
        self._worker = worker
        self._awake = AWAKE_SECONDS[1]
        self._poll = select.poll()
        self._worker_of: dict[int, tuple[int, int]] = {}
        for peer, process in processes.items():
            descriptor = watch(process)
            self._worker_of[descriptor] = (peer, process)
            self._poll.register(descriptor, select.POLLIN)

    def wait(self) -> None:
        """Returns when every worker has arrived as often as this one.

        Raises:
            WorkerLost: a peer died or gave up.
        """
        # Arrivals are counted, and never reset: so there is no moment at which a fast worker, already at the next
        # barrier, could be taken for one who is still at this one, and one barrier serves all waits of all steps.
        count = self._count + 1
        self._count = count
        publish()  # all that this worker has written and read, before its arrival
        self._arrival[COUNT] = count
        for peer in self._peers:
            if peer[ASLEEP]:
                wake(self._arrival)
                break
        for peer in self._peers:
            if peer[COUNT] < count:
                self._wait_for(peer, count)

    def abandon(self) -> None:
        """Tells the peers that this worker will not arrive again."""
        self._failed[0] = self._worker + 1
        wake(self._arrival)

    def _wait_for(self, peer: memoryview, count: int) -> None:
        # Awake first: a peer mostly arrives within microseconds, and waking up costs tens of them. But each turn
        # offers the core to others, since with more workers than cores the peer may wait for this very core.
        until = time.perf_counter() + self._awake
        while time.perf_counter() < until:
            if peer[COUNT] >= count:
                self._awake = min(2 * self._awake, AWAKE_SECONDS[1])
                return
            os.sched_yield()
        # Asleep: the kernel compares the peer's counter with what was seen in the same call that puts to sleep, so an
        # arrival in between is not missed. One that passes by the word ASLEEP is found by the look after LOOK_SECONDS.
        self._awake = max(self._awake / 2, AWAKE_SECONDS[0])
        self._arrival[ASLEEP] = 1
        while (seen := peer[COUNT]) < count:
            self._look_at_peers()
            sleep_while(peer, seen, LOOK_SECONDS)
        self._arrival[ASLEEP] = 0

    def _look_at_peers(self) -> None:
        if self._failed[0]:
            raise WorkerLost(f"worker {self._failed[0] - 1} gave up, so the others cannot go on")
        for descriptor, _ in self._poll.poll(0):
            peer, process = self._worker_of[descriptor]
            raise WorkerLost(f"worker {peer} (process {process}) died in the middle of a step")


def make_barrier(words: memoryview, worker: int, processes: Mapping[int, int]) -> Barrier:
    """Where the workers who share a memory wait for each other.

    Args:
        words: of the memory, a line each: the second says who gave up; from the third on they are the workers'.
        worker: this one.
        processes: process numbers of all of them, by worker.
    """
    if len(processes) == 1:
        return Alone()
    lines = [words[start : start + 2] for start in range(0, len(words), WORDS_A_LINE)]
    peers = {peer: process for peer, process in processes.items() if process != os.getpid()}
    return SharedBarrier(failed=lines[1], arrivals=lines[2 : 2 + len(processes)], worker=worker, processes=peers)


def wake(word: memoryview) -> None:
    """Wakes all who sleep on a word."""
    _libc.syscall(_futex, _address(word), FUTEX_WAKE, _EVERYBODY, None, None, 0)


def sleep_while(word: memoryview, seen: int, seconds: float) -> bool:
    """Sleeps until somebody wakes the word's sleepers, at most so long; not at all unless its value is ``seen``.

    Returns:
        Whether it ended before the time was over.
    """
    longest = ctypes.byref(_Timespec(0, int(seconds * 1e9)))
    failed = _libc.syscall(_futex, _address(word), FUTEX_WAIT, ctypes.c_uint32(seen), longest, None, 0)
    return not (failed and ctypes.get_errno() == errno.ETIMEDOUT)


_EVERYBODY = 2**31 - 1


def _address(word: memoryview) -> ctypes.c_void_p:
    """Of the word's lower half: a futex is 32 bits."""
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_uint32.from_buffer(word)))

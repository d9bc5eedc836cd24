"""The exchange without fixed hosts: workers take lanes' parts from a common pool, and may be a few steps apart.

A claim is one lane's part of one minibatch. Every worker takes the next free claim; whoever finishes
the last of a minibatch makes its update, in order. With ``bound`` = 0 a minibatch begins when the last
one is in the parameters, so the bits are those of the other exchanges, whoever computes what: workers
may join and leave between claims, and a dead or slow worker's parts are done by others. With ``bound``
= k a claim may be computed from parameters that up to k updates are missing from (stale synchronous
parallel: Ho et al. 2013), so that nobody waits for a worker that is less than k minibatches behind.

Costs one system call for the lock around each claim; an update is made by one worker alone. One host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.exchange.barrier import LOOK_SECONDS, sleep_while, wake
from streamtrain.aggregate.exchange.memory import WORDS_A_LINE, Memory
from streamtrain.aggregate.exchange.shared import moments_of, rest_of_state
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import tree_sum_
from streamtrain.errors import WorkerLost
from streamtrain.processes import is_dead
from streamtrain.values import Update

FAILED, APPLIER = WORDS_A_LINE, 2 * WORDS_A_LINE
"""Words of the block beside the first, which counts updates: who gave up; which process makes an update."""
STEP, OWNER, DONE, VERSION = range(4)
"""Of a claim, steps counted from 1: taken for; process that took it; done for; updates in the parameters it used."""


@dataclass(frozen=True)
class Claim:
    """One lane's part of the minibatch of global ``step``, to be computed from ``state`` into ``slot``."""

    step: int
    lane: int
    state: State
    slot: Slot


class Pool:
    """See the module.

    Args:
        memory: the block, with room for ``bound + 1`` minibatches.
        aggregator: of the whole vector.
        descriptor: an open file of the block, this process's own, to lock.
    """

    def __init__(self, memory: Memory, aggregator: Aggregator, descriptor: int) -> None:
        self._memory, self._aggregator, self._descriptor = memory, aggregator, descriptor
        self._all_claims: NDArray[np.int64] = memory.claims.numpy()
        self._process = os.getpid()

    @property
    def step(self) -> int:
        """Updates in the current state."""
        return int(self._memory.words[0])

    @property
    def state(self) -> State:
        """The current state; whole between two calls of all workers."""
        return self._memory.states[self.step % len(self._memory.states)]

    def complete(self) -> None:
        """Everything is whole in the one block."""

    def abandon(self) -> None:
        """This worker gives up, and so shall the others."""
        self._memory.words[FAILED] = self._process
        wake(self._memory.words[:1])

    def claim(self, until: int) -> Claim | None:
        """The next part to compute, or ``None`` once ``until`` updates are in the state; waits where all are taken.

        Raises:
            WorkerLost: another worker gave up.
        """
        while (step := self.step) < until:
            if self._memory.words[FAILED]:
                raise WorkerLost(f"process {self._memory.words[FAILED]} gave up, so the others cannot go on")
            with self._locked():
                found = self._take(until)
            if found is not None:
                return found
            if not sleep_while(self._memory.words[:1], step, LOOK_SECONDS):
                self._free_what_the_dead_held()
        return None

    def finish(self, claim: Claim) -> Iterator[Update]:
        """Notes that ``claim.slot`` is filled; makes the updates that this completes, and gives them.

        Raises:
            NonFiniteError: the loss or the gradient; the state stays as it was.
        """
        self._aggregator.norms.note(claim.step, [claim.slot])
        with self._locked():
            self._claims(claim.step)[claim.lane, DONE] = claim.step + 1
            mine = self._becomes_applier()
        while mine:
            update = self._make_update()
            with self._locked():
                self._memory.words[APPLIER] = 0
                self._memory.words[0] = update.step + 1
                mine = self._becomes_applier()
            wake(self._memory.words[:1])
            yield update

    def _take(self, until: int) -> Claim | None:
        version = self.step
        for step in range(version, min(version + self._memory.in_flight, until)):
            claims = self._claims(step)
            free = np.flatnonzero(claims[:, STEP] != step + 1)
            if len(free):
                lane = int(free[0])
                claims[lane] = step + 1, self._process, 0, version
                state = self._memory.states[version % len(self._memory.states)]
                return Claim(step, lane, state, self._slots(step)[lane])
        return None

    def _becomes_applier(self) -> bool:
        """Whether the next minibatch is complete, and nobody else makes its update; the lock is held."""
        step = self.step
        if self._memory.words[APPLIER] or not (self._claims(step)[:, DONE] == step + 1).all():
            return False
        self._memory.words[APPLIER] = self._process
        return True

    def _make_update(self) -> Update:
        memory, aggregator, step = self._memory, self._aggregator, self.step
        old, new = self.state, memory.states[(step + 1) % len(memory.states)]
        slots, used = self._slots(step), memory.used[self._place(step)]
        totals, lanes = moments_of(slots), aggregator.norms.of_lanes(step, slots)
        decision = aggregator.begin(step, used, old)
        for block in aggregator.blocks:
            mean = tree_sum_([slot.gradient[block.place] for slot in slots]).div_(max(totals[0].count, 1))
            aggregator.clip(block, mean, old, memory.norms)
        decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
        for block in aggregator.blocks:
            aggregator.descend(block, decision, slots[0].gradient[block.place], old, new)
        rest_of_state(slots, used, decision, old, new)
        if lanes:
            update = replace(update, norms=aggregator.norms.whole(lanes, memory.norms.tolist(), old, new))
        return replace(update, staleness=step - float(self._claims(step)[:, VERSION].mean()))

    def _free_what_the_dead_held(self) -> None:
        """Claims of dead processes are free again; an update that one of them was making begins anew."""
        with self._locked():
            step = self.step
            applier = int(self._memory.words[APPLIER])
            if applier and is_dead(applier):
                self._claims(step)[:] = 0  # sums are made in the slots, so these are used up
                self._memory.words[APPLIER] = 0
            claims = self._all_claims
            held = claims[:, DONE] != claims[:, STEP]
            for process in set(claims[held, OWNER].tolist()):
                if is_dead(process):
                    claims[held & (claims[:, OWNER] == process)] = 0

    def _claims(self, step: int) -> NDArray[np.int64]:
        return self._all_claims[self._place(step)]

    def _slots(self, step: int) -> tuple[Slot, ...]:
        return self._memory.slots[self._place(step)]

    def _place(self, step: int) -> slice:
        """Of a minibatch's slots among those of all minibatches in flight."""
        lanes = len(self._memory.slots) // self._memory.in_flight
        first = step % self._memory.in_flight * lanes
        return slice(first, first + lanes)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The kernel gives the lock back when its holder dies."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

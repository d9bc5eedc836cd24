"""The exchange without fixed hosts: workers take lanes' parts from a common pool, and may be a few steps apart.

A claim is one lane's part of one minibatch. Every worker takes the next free claim; whoever finds the
next minibatch complete makes its update, in order. With ``bound`` = 0 a minibatch begins when the last
one is in the parameters, so the bits are those of the other exchanges, whoever computes what: workers
may join and leave between claims, and a dead or slow worker's parts are done by others. With ``bound``
= k a claim may be computed from parameters that up to k updates are missing from (stale synchronous
parallel: Ho et al. 2013), so that nobody waits for a worker that is less than k minibatches behind.

With ``backup`` = b a minibatch is complete when all its parts are taken and all but b are there (backup
workers: Chen et al. 2016): its gradient is the mean over the examples that came, summed by the tree over
their parts. What a late part would have brought is thrown away, and with ``pass_steps`` the next
minibatch offers the part again, first of all, in the parameters' own state: so it is not forgotten by a
checkpoint. The last minibatch of a pass waits for everybody: each example is used once a pass. Which
parts are late, and so the bits, depends on timing.

Costs two system calls for the lock around each claim; an update is made by one worker alone. One host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamtrain.aggregate.buffers import update_buffers
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.exchange.barrier import LOOK_SECONDS, WORDS_A_LINE, sleep_while, wake
from streamtrain.aggregate.exchange.memory import Memory
from streamtrain.aggregate.moments import add_moments, add_weights
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import tree_sum_
from streamtrain.aggregate.vector import gaps_of
from streamtrain.errors import WorkerLost
from streamtrain.memory_order import publish
from streamtrain.processes import is_dead
from streamtrain.values import Update

FAILED, APPLIER = WORDS_A_LINE, 2 * WORDS_A_LINE
"""Words of the block beside the first, which counts updates: who gave up; which process makes an update."""
STEP, OWNER, DONE, VERSION = range(4)
"""Of a claim, steps counted from 1: taken for; process that took it; done for; updates in the parameters it used."""
ARRIVING = -1
"""In place of the step it is done for: it is being brought, so that it is waited for."""


@dataclass(frozen=True)
class Claim:
    """One lane's part of the minibatch of global ``step``, to be computed from ``state`` into ``slot``.

    The part is ``lane``'s of step ``of``: an earlier one where it was put back. ``row`` is its place in the pool.
    """

    step: int
    of: int
    lane: int
    state: State
    slot: Slot
    row: int


class Pool:
    """One worker's view of the parts that are offered, claimed, and there.

    Args:
        memory: the block, with room for ``bound + 1`` minibatches, or for ``backup`` parts beside the lanes'.
        aggregator: of the whole vector.
        descriptor: an open file of the block, this process's own, to lock.
        pass_steps: steps of a pass, where late parts are put back; 0 where they stay unused.
    """

    def __init__(self, memory: Memory, aggregator: Aggregator, descriptor: int, pass_steps: int = 0) -> None:
        self._memory = memory
        self._aggregator = aggregator
        self._descriptor = descriptor
        self._all_claims: NDArray[np.int64] = memory.claims.numpy()
        self._gaps = gaps_of(aggregator.layout)
        self._process = os.getpid()
        self._pass_steps = pass_steps
        self._rows = len(memory.slots) // memory.in_flight
        self._own = memory.own_slot() if memory.backup else None

    @property
    def step(self) -> int:
        """Updates in the current state."""
        return int(self._memory.words[0])

    @property
    def state(self) -> State:
        """The current state; whole between two calls of all workers."""
        return self._memory.states[self.step % len(self._memory.states)]

    def abandon(self) -> None:
        """This worker gives up, and so shall the others."""
        self._memory.words[FAILED] = self._process
        wake(self._memory.words[:1])

    def updates(self) -> Iterator[Update]:
        """Makes the updates whose minibatches are complete, in order, unless another worker is at it.

        Raises:
            NonFiniteError: the loss or the gradient; the state stays as it was.
        """
        while self._begins_update():
            update = self._make_update()
            with self._locked():
                self._memory.words[APPLIER] = 0
                self._memory.words[0] = update.step + 1
            wake(self._memory.words[:1])
            yield update

    def claim(self, until: int) -> Claim | None:
        """The next part to compute, of the first ``until`` minibatches; ``None`` where none is free now.

        Raises:
            WorkerLost: another worker gave up.
        """
        if self._memory.words[FAILED]:
            raise WorkerLost(f"process {self._memory.words[FAILED]} gave up, so the others cannot go on")
        with self._locked():
            return self._take(until)

    def wait(self, step: int) -> None:
        """Returns when there may be something to do: soon after ``step`` updates have become more, or the last
        part was taken; sees to what dead workers held."""
        if not sleep_while(self._memory.words[:1], step, LOOK_SECONDS):
            self._free_what_the_dead_held()

    def finish(self, claim: Claim) -> bool:
        """Notes that ``claim.slot`` is filled; ``False`` where its minibatch went on without it."""
        self._aggregator.norms.note_lanes(claim.step, [claim.slot], claim.state)
        if self._own is not None and not self._brought(claim):
            return False
        with self._locked():
            self._claims(claim.step)[claim.row, DONE] = claim.step + 1
        return True

    def _take(self, until: int) -> Claim | None:
        memory = self._memory
        version = self.step
        state = memory.states[version % len(memory.states)]
        for step in range(version, min(version + memory.in_flight, until)):
            claims = self._claims(step)
            free = np.flatnonzero(self._offered(state) & (claims[:, STEP] != step + 1))
            if len(free):
                row = int(free[0])
                claims[row] = step + 1, self._process, 0, version
                if memory.backup and len(free) == 1:  # what is not there yet is late from now on
                    wake(memory.words[:1])
                slot = self._slots(step)[row] if self._own is None else self._own[0]
                return Claim(step, *self._part(step, row, state), state, slot, row)
        return None

    def _brought(self, claim: Claim) -> bool:
        """Copies a worker's own slot to where it is added up; ``False`` where the minibatch went on without it."""
        assert self._own is not None
        with self._locked():
            found = self._claims(claim.step)[claim.row]
            mine = found[STEP] == claim.step + 1 and found[OWNER] == self._process
            if self.step != claim.step or self._memory.words[APPLIER] or not mine:
                return False
            found[DONE] = ARRIVING
        slot, row = self._own
        self._memory.slots[claim.row].gradient.copy_(slot.gradient)
        self._memory.rows[claim.row].copy_(row)
        return True

    def _begins_update(self) -> bool:
        """Whether the next minibatch is complete, and nobody else makes its update."""
        with self._locked():
            if self._memory.words[APPLIER] or not self._is_complete(self.step):
                return False
            self._memory.words[APPLIER] = self._process
        return True

    def _is_complete(self, step: int) -> bool:
        claims = self._claims(step)
        missing = self._missing(step)
        if not len(missing):
            return True
        ends_pass = self._pass_steps and (step + 1) % self._pass_steps == 0
        most = 0 if ends_pass else self._memory.backup
        taken = (claims[missing, STEP] == step + 1) & (claims[missing, DONE] != ARRIVING)
        return len(missing) <= most and bool(taken.all())

    def _make_update(self) -> Update:
        memory = self._memory
        aggregator = self._aggregator
        step = self.step
        old, new = self.state, memory.states[(step + 1) % len(memory.states)]
        late = self._missing(step)
        came = np.flatnonzero(self._claims(step)[:, DONE] == step + 1)
        all_slots = self._slots(step)
        slots = [all_slots[row] for row in came]
        used = memory.used[self._place(step)][came]
        totals = add_moments(slots)
        weight = add_weights(slots)
        lanes = aggregator.norms.read_lanes(step, slots)
        decision = aggregator.begin(step, used, old)
        for block in aggregator.blocks:
            mean = tree_sum_([slot.gradient[block.place] for slot in slots]).div_(weight)
            aggregator.clip(block, mean, old, memory.norms)
        decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
        for block in aggregator.blocks:
            aggregator.descend(block, decision, slots[0].gradient[block.place], old, new, memory.changes)
        slots[0].gradient.index_fill_(0, self._gaps, 0)  # used up by the optimizer; lanes write only between these
        update_buffers(slots, used, decision, old, new)
        update = aggregator.norms.add_to(update, lanes, memory.norms, memory.changes)
        parts = tuple(self._part(step, int(row), old) for row in late)
        self._put_back(parts, new)
        return replace(update, staleness=step - float(self._claims(step)[came, VERSION].mean()), late=parts)

    def _put_back(self, parts: tuple[tuple[int, int], ...], new: State) -> None:
        rows = new.put_back.view(-1, 2)
        rows.zero_()
        for row, (of, lane) in enumerate(parts if self._pass_steps else ()):
            rows[row, 0] = of + 1
            rows[row, 1] = lane

    def _offered(self, state: State) -> NDArray[np.bool_]:
        """Which rows have a part: those of parts that were put back, then every lane's."""
        lanes = np.ones(self._rows - self._memory.backup, bool)
        return np.concatenate([state.put_back.numpy()[::2] > 0, lanes]) if self._memory.backup else lanes

    def _missing(self, step: int) -> NDArray[np.int64]:
        """Rows whose part is not there."""
        missing: NDArray[np.int64] = np.flatnonzero(
            self._offered(self.state) & (self._claims(step)[:, DONE] != step + 1)
        )
        return missing

    def _part(self, step: int, row: int, state: State) -> tuple[int, int]:
        """Step and lane of the part in a row."""
        lane = row - self._memory.backup
        if lane >= 0:
            return step, lane
        of, lane = state.put_back[2 * row : 2 * row + 2].tolist()
        return of - 1, lane

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
        first = step % self._memory.in_flight * self._rows
        return slice(first, first + self._rows)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The kernel gives the lock back when its holder dies."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            publish()  # what was written before or under the lock, to who holds it next
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

"""The exchange of one host: workers meet in one block of memory (DESIGN, measurements; a single worker alone).

Each worker sums and updates its own chunks of the vector over all lanes. Three waits make a step
whole: all contributions are there; all norms are there; all of the new state is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from streamtrain.aggregate.barrier import Alone, Barrier, SharedBarrier
from streamtrain.aggregate.clip import clip_scale, clip_value_, norm_of, squared_norm
from streamtrain.aggregate.memory import CHUNK, WORDS_A_LINE, Memory, Slot, State, rows_of
from streamtrain.aggregate.sgd import descend, schedule_factor
from streamtrain.aggregate.sums import Sums
from streamtrain.aggregate.tree import tree_sum
from streamtrain.aggregate.vector import Layout, Place
from streamtrain.errors import NonFiniteError
from streamtrain.job import SGD
from streamtrain.values import Moments, Update

BLOCK = 4
"""Chunks that are summed and updated by one call."""


class HostExchange:
    """See the module and `Exchange`.

    Args:
        memory: the block; private where there is one worker.
        layout: of the model.
        sgd: settings of the update.
        total_steps: the longest possible run, for the schedule.
        worker: this worker's index.
        processes: process numbers of all workers, by worker; the workers of this exchange.
        norms_every: steps from one update with `Norms` to the next; 0 for never.
    """

    def __init__(
        self,
        memory: Memory,
        layout: Layout,
        sgd: SGD,
        total_steps: int,
        worker: int,
        processes: Mapping[int, int],
        norms_every: int = 0,
    ) -> None:
        self._memory, self._layout, self._sgd, self._total_steps = memory, layout, sgd, total_steps
        self._leads = worker == 0
        self._sums, self._norms_every = Sums(layout, rows_of(layout), memory.sums), norms_every
        self._barrier = _barrier(memory, worker, processes)
        self._blocks = _blocks_of(layout.size, len(processes), worker)
        self._step = int(memory.words[0])

    @property
    def step(self) -> int:
        """See `Exchange`."""
        return self._step

    @property
    def halves(self) -> tuple[State, State]:
        """See `Exchange`."""
        return self._memory.halves

    def slot(self, lane: int) -> Slot:
        """See `Exchange`."""
        return self._memory.slots[lane]

    def abandon(self) -> None:
        """See `Exchange`."""
        self._barrier.abandon()

    def meet(self) -> Update:
        """See `Exchange`."""
        self._barrier.wait()  # every lane's contribution is there
        loss, error = self._totals()
        unused = self._unused()
        sums = self._sums if self._norms_every and not (self._step + 1) % self._norms_every else None
        for block in self._blocks:
            self._gather(block, loss.count, sums)

        self._barrier.wait()  # every chunk's norm is there
        norm = norm_of(self._memory.norms.tolist())
        learning_rate = self._sgd.lr * schedule_factor(self._sgd.schedule, self._step, self._total_steps)
        if not (math.isfinite(norm) and math.isfinite(loss.mean)):
            raise NonFiniteError(self._step, learning_rate, norm, loss.mean)
        scale = clip_scale(norm, self._sgd.clip_norm)
        for block in self._blocks:
            self._descend(block, scale, learning_rate)
            self._keep(unused, block)
            if sums is not None:
                sums.take_update(block, *(state.parameters[block] for state in self._old_and_new()))
        if self._leads:
            self._average_buffers()

        self._barrier.wait()  # the new state is whole
        norms = sums.norms(self._memory.moments[:, 0].int().tolist()) if sums is not None and self._leads else None
        update = Update(self._step, loss, error, learning_rate, norm, scale, norms)
        self._commit()
        return update

    def _totals(self) -> tuple[Moments, Moments]:
        loss, error = Moments(), Moments()
        for count, mean, m2, error_count, error_mean, error_m2 in self._memory.moments.tolist():
            loss += Moments(int(count), mean, m2)
            error += Moments(int(error_count), error_mean, error_m2)
        return loss, error

    def _gather(self, block: slice, examples: int, sums: Sums | None) -> None:
        """Mean gradient (8.9) of one block, clipped by value, and its chunks' squared norms."""
        lanes = [slot.gradient[block] for slot in self._memory.slots]
        mean = tree_sum(lanes, out=self._memory.mean[block]).div_(examples)
        if sums is not None:
            sums.take_gradients(block, lanes, mean)
        if self._sgd.clip_value is not None:
            clip_value_(mean, self._sgd.clip_value)
        for start in range(0, len(mean), CHUNK):
            self._memory.norms[(block.start + start) // CHUNK] = squared_norm(mean[start : start + CHUNK])

    def _descend(self, block: slice, scale: float, learning_rate: float) -> None:
        old, new = self._old_and_new()
        gradient = self._memory.mean[block]
        if scale != 1.0:
            gradient.mul_(scale)
        descend(
            self._sgd,
            learning_rate,
            gradient,
            old=(old.parameters[block], old.momentum[block]),
            new=(new.parameters[block], new.momentum[block]),
        )

    def _keep(self, places: list[Place], block: slice) -> None:
        """Leaves ``places`` as they were, where they lie in the block."""
        old, new = self._old_and_new()
        for place in places:
            inside = slice(max(place.start, block.start), min(place.stop, block.stop))
            if inside.start < inside.stop:
                new.parameters[inside] = old.parameters[inside]
                new.momentum[inside] = old.momentum[inside]

    def _unused(self) -> list[Place]:
        """Parameters without a gradient in this minibatch: left as they are, like `torch.optim.SGD` does."""
        used = self._memory.used.amax(0)
        return [place for place, flag in zip(self._layout.parameters, used.tolist(), strict=True) if not flag]

    def _average_buffers(self) -> None:
        """Floating-point buffers: mean over the lanes that had examples; others: lane 0's, which always has some."""
        _, new = self._old_and_new()
        if self._layout.buffers:
            had = [
                slot.buffers
                for slot, count in zip(self._memory.slots, self._memory.moments[:, 0], strict=True)
                if count
            ]
            tree_sum(had, out=new.buffers).div_(len(had))
        new.counters.copy_(self._memory.slots[0].counters)

    def _old_and_new(self) -> tuple[State, State]:
        halves = self._memory.halves
        return halves[self._step % 2], halves[1 - self._step % 2]

    def _commit(self) -> None:
        self._step += 1
        if self._leads:
            self._memory.words[0] = self._step


def _barrier(memory: Memory, worker: int, processes: Mapping[int, int]) -> Barrier:
    if len(processes) == 1:
        return Alone()
    lines = [memory.words[start : start + 1] for start in range(0, len(memory.words), WORDS_A_LINE)]
    peers = {peer: process for peer, process in processes.items() if process != os.getpid()}
    return SharedBarrier(failed=lines[1], arrivals=lines[2:], worker=worker, processes=peers)


def _blocks_of(size: int, workers: int, worker: int) -> list[slice]:
    """What ``worker`` sums and updates: whole chunks, in runs that fit in a core's cache, since few calls cost less."""
    chunks = -(-size // CHUNK)
    first, last = worker * chunks // workers, (worker + 1) * chunks // workers
    return [slice(start * CHUNK, min(min(start + BLOCK, last) * CHUNK, size)) for start in range(first, last, BLOCK)]

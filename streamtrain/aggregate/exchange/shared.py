"""The exchange of one host: workers meet in one block of memory (DESIGN, measurements; a single worker alone).

Each worker sums and updates its own share of the vector over all lanes. Three waits make a step
whole: all contributions are there; all norms are there; all of the new state is there. Where nothing
is clipped by norm, the second is left out: whether all is finite is seen in time at the third, since
the new state is the other half of a double buffer, and nobody uses it before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator, Decision
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.exchange.barrier import Alone, Barrier, SharedBarrier
from streamtrain.aggregate.exchange.memory import WORDS_A_LINE, Memory
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import tree_sum_
from streamtrain.values import Moments, Update


class SharedExchange:
    """See the module and `Exchange`.

    Args:
        memory: the block; private where there is one worker.
        aggregator: of this worker's share.
        lanes: those that this worker hosts.
        worker: its index.
        processes: process numbers of all workers, by worker; the workers of this exchange.
    """

    def __init__(
        self, memory: Memory, aggregator: Aggregator, lanes: range, worker: int, processes: Mapping[int, int]
    ) -> None:
        self._memory, self._aggregator = memory, aggregator
        self._mine = memory.slots[lanes.start : lanes.stop]
        self._leads, self._clips_by_norm = worker == 0, aggregator.clips_by_norm
        self._barrier = _barrier(memory, worker, processes)
        self._step = int(memory.words[0])

    @property
    def step(self) -> int:
        """See `Exchange`."""
        return self._step

    def complete(self) -> None:
        """See `Exchange`: everything is whole in the one block."""

    @property
    def state(self) -> State:
        """See `Exchange`."""
        return self._memory.states[self._step % 2]

    def slot(self, lane: int) -> Slot:
        """See `Exchange`."""
        return self._memory.slots[lane]

    def abandon(self) -> None:
        """See `Exchange`."""
        self._barrier.abandon()

    def meet(self) -> Update:
        """See `Exchange`."""
        memory, aggregator, blocks = self._memory, self._aggregator, self._aggregator.blocks
        old, new = memory.states[self._step % 2], memory.states[1 - self._step % 2]
        aggregator.norms.note(self._step, self._mine)
        self._barrier.wait()  # every lane's contribution is there
        totals, lanes = moments_of(memory.slots), aggregator.norms.of_lanes(self._step, memory.slots)
        decision = aggregator.begin(self._step, memory.used, old)
        if self._clips_by_norm:
            for block in blocks:
                self._gather(block, totals[0].count, old)
            self._barrier.wait()  # every piece's norm is there
            decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
            for block in blocks:
                aggregator.descend(block, decision, self._mean(block), old, new)
        else:
            for block in blocks:
                self._gather(block, totals[0].count, old)
                aggregator.descend(block, decision, self._mean(block), old, new)
        if self._leads:
            rest_of_state(memory.slots, memory.used, decision, old, new)

        self._barrier.wait()  # the new state is whole
        if not self._clips_by_norm:
            decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
            if decision.skipped:
                self._take_back(decision, old, new)
        if lanes:
            update = replace(update, norms=aggregator.norms.whole(lanes, memory.norms.tolist(), old, new))
        self._step += 1
        if self._leads:
            memory.words[0] = self._step
        return update

    def _mean(self, block: Block) -> torch.Tensor:
        """Where the mean gradient of a block is made: in lane 0's slot, which every step fills anew."""
        return self._memory.slots[0].gradient[block.place]

    def _gather(self, block: Block, examples: int, old: State) -> None:
        """Mean gradient (8.9) of one block over all lanes, clipped."""
        mean = tree_sum_([slot.gradient[block.place] for slot in self._memory.slots]).div_(max(examples, 1))
        self._aggregator.clip(block, mean, old, self._memory.norms)

    def _take_back(self, decision: Decision, old: State, new: State) -> None:
        """The update was made before it was known that there shall be none."""
        for block in self._aggregator.blocks:
            self._aggregator.descend(block, decision, self._mean(block), old, new)
        if self._leads:
            rest_of_state(self._memory.slots, self._memory.used, decision, old, new)
        self._barrier.wait()


def moments_of(slots: Sequence[Slot]) -> tuple[Moments, Moments]:
    """Totals of the losses and of the errors, in lane order."""
    loss, error = Moments(), Moments()
    for slot in slots:
        count, mean, m2, error_count, error_mean, error_m2 = slot.moments.tolist()
        loss += Moments(int(count), mean, m2)
        error += Moments(int(error_count), error_mean, error_m2)
    return loss, error


def rest_of_state(slots: Sequence[Slot], used: torch.Tensor, decision: Decision, old: State, new: State) -> None:
    """What is not a vector of parameters: buffers and counts.

    Floating-point buffers are the mean over the lanes that had examples; others are lane 0's, which
    always has some. After a skipped step all are as they were.
    """
    if decision.skipped:
        for name in ("buffers", "counters", "uses"):
            getattr(new, name).copy_(getattr(old, name))
        return
    had = [slot.buffers for slot in slots if slot.moments[0]]
    if len(new.buffers) and had:
        torch.div(tree_sum_(had), len(had), out=new.buffers)
    new.counters.copy_(slots[0].counters)
    torch.add(old.uses, used.amax(0), out=new.uses)


def _barrier(memory: Memory, worker: int, processes: Mapping[int, int]) -> Barrier:
    if len(processes) == 1:
        return Alone()
    lines = [memory.words[start : start + 1] for start in range(0, len(memory.words), WORDS_A_LINE)]
    peers = {peer: process for peer, process in processes.items() if process != os.getpid()}
    return SharedBarrier(failed=lines[1], arrivals=lines[2 : 2 + len(processes)], worker=worker, processes=peers)

"""The exchange of one host: workers meet in one block of memory (DESIGN, measurements; a single worker alone).

Each worker sums and updates its own share of the vector over all lanes. Three waits make a step
whole: all contributions are there; all norms are there; all of the new state is there. Where nothing
is clipped by norm, the second is left out: whether all is finite is seen in time at the third, since
the new state is the other half of a double buffer, and nobody uses it before it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from streamtrain.aggregate.buffers import update_buffers
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.decision import Decision
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.exchange.barrier import make_barrier
from streamtrain.aggregate.exchange.contract import Exchange
from streamtrain.aggregate.exchange.memory import Memory
from streamtrain.aggregate.moments import add_moments, add_weights
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import Node, take_mean, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import ALIGNMENT
from streamtrain.values import Update


class SharedExchange(Exchange):
    """The exchange of workers who share one block of memory.

    Args:
        memory: the block; private where there is one worker.
        aggregator: of this worker's share.
        hosting: ``hosting[w]`` are the lanes of worker ``w``.
        worker: this worker's index.
        processes: process numbers of all workers, by worker; the workers of this exchange.
    """

    def __init__(
        self,
        memory: Memory,
        aggregator: Aggregator,
        hosting: Sequence[range],
        worker: int,
        processes: Mapping[int, int],
    ) -> None:
        super().__init__(memory.words, memory.states, make_barrier(memory.words, worker, processes))
        self._memory = memory
        self._aggregator = aggregator
        slots = memory.slots
        nodes = [whole_subtrees(len(slots), hosted) for hosted in hosting]
        self._mine = hosting[worker]
        self._subtrees = [[slot.gradient for slot in slots[start:stop]] for start, stop in nodes[worker]]
        self._paired = [slot for start, stop in nodes[worker] for slot in pair_siblings(slots[start:stop])]
        means = allocate_means(aggregator, memory.slots[0].gradient)
        self._shares = [
            (block, mean, {node: slots[node[0]].gradient[block.place] for each in nodes for node in each})
            for block, mean in zip(aggregator.blocks, means, strict=True)
        ]
        self._leads = worker == 0
        self._clips_by_norm = aggregator.clips_by_norm

    def slot(self, lane: int) -> Slot:
        """Where the lane's contribution goes: siblings into one gradient, but where every lane's norm is wanted."""
        return self._memory.slots[lane] if self._apart else self._paired[lane - self._mine.start]

    def meet(self) -> Update:
        """The contract's, in two or three waits.

        Every worker needs all lanes' slots to make its share of the mean, so the first wait is for those. The factor
        of clipping by norm needs the norms of all shares, hence a second wait; but nothing else does, so without
        clipping by norm the update is made at once, into the half that nobody reads, while the mean is in the core's
        cache. The last wait is for the new state, which every worker reads whole.

        Without the second wait it is known only at the last one whether all was finite: where it was not, the half is
        written again, as if the step had not been. Nobody can have used it, since the step is not yet counted.
        """
        memory = self._memory
        aggregator = self._aggregator
        old, new = self.state, self.next_state
        self._add_up_mine()
        self._barrier.wait()  # every lane's contribution is there
        totals = add_moments(memory.slots)
        weight = add_weights(memory.slots)
        lanes = aggregator.norms.read_lanes(self._step, memory.slots)
        decision = aggregator.begin(self._step, memory.used, old)
        if self._clips_by_norm:
            for block, mean, nodes in self._shares:
                self._gather(block, mean, nodes, weight, old)
            self._barrier.wait()  # every piece's norm is there
            decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
            for block, mean, _ in self._shares:
                aggregator.descend(block, decision, mean, old, new, memory.changes)
        else:
            for block, mean, nodes in self._shares:
                self._gather(block, mean, nodes, weight, old)
                aggregator.descend(block, decision, mean, old, new, memory.changes)
        if self._leads:
            update_buffers(memory.slots, memory.used, decision, old, new)

        self._barrier.wait()  # the new state is whole, and so are the norms
        if not self._clips_by_norm:
            decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
            if decision.skipped:
                self._take_back(decision, old, new)
        self._commit(writes=self._leads)
        return aggregator.norms.add_to(update, lanes, memory.norms, memory.changes)

    def _add_up_mine(self) -> None:
        """This worker's own subtrees, each in its first lane's slot; before others wait for them."""
        if self._apart:
            self._aggregator.norms.note_lanes(self._step, self._memory.slots[self._mine.start : self._mine.stop])
        for gradients in self._subtrees:
            tree_sum_(gradients if self._apart else gradients[::2])

    @property
    def _apart(self) -> bool:
        """Whether every lane's gradient is wanted by itself in this step; else siblings are summed at once."""
        return self._step == self.apart_at or self._aggregator.norms.is_due(self._step)

    def _gather(
        self, block: Block, mean: torch.Tensor, nodes: Mapping[Node, torch.Tensor], weight: float, old: State
    ) -> None:
        """Mean gradient (8.9) of one block over all lanes, clipped."""
        take_mean(len(self._memory.slots), nodes, weight, mean)
        self._aggregator.clip(block, mean, old, self._memory.norms)

    def _take_back(self, decision: Decision, old: State, new: State) -> None:
        """The update was made before it was known that there shall be none."""
        for block, mean, _ in self._shares:
            self._aggregator.descend(block, decision, mean, old, new, self._memory.changes)
        if self._leads:
            update_buffers(self._memory.slots, self._memory.used, decision, old, new)
        self._barrier.wait()  # the state is again that of before; all workers are here, since all decided the same


def pair_siblings(slots: Sequence[Slot]) -> list[Slot]:
    """A whole subtree's slots, in which each second lane adds to the one before.

    Two siblings are added anyway, and by the same worker; so their gradients are added while the second is fresh from
    backward, in one trip through memory less. No bit changes: the pairs' sums are the nodes above the leaves.
    """
    pairs = [slots[index : index + 2] for index in range(0, len(slots), 2)]
    return [
        replace(slot, gradient=pair[0].gradient, adds=slot is not pair[0], waits=slot is not pair[-1])
        for pair in pairs
        for slot in pair
    ]


def allocate_means(aggregator: Aggregator, vector: torch.Tensor) -> list[torch.Tensor]:
    """Where the mean gradient of every block is made: this worker's own memory, placed as in ``vector``.

    The same place for all, which so stays in the core's cache, but where all are needed until the norm is known.
    """
    blocks = aggregator.blocks
    if not blocks:
        return []
    step = ALIGNMENT // vector.itemsize
    lows = [(blocks[0] if aggregator.clips_by_norm else block).place.start // step * step for block in blocks]
    ends = [block.place.stop - low for block, low in zip(blocks, lows, strict=True)]
    memory = torch.empty(max(ends), dtype=vector.dtype, device=vector.device)
    return [memory[block.place.start - low : end] for block, low, end in zip(blocks, lows, ends, strict=True)]

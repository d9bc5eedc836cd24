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
from streamtrain.aggregate.exchange.contract import Exchange, gather_in_memory
from streamtrain.aggregate.exchange.memory import Memory, Scratch
from streamtrain.aggregate.moments import add_moments, add_weights
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import Node, left_nodes, right_turns, take_mean, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import ALIGNMENT, gaps_of
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
        self._sums = LaneSums(aggregator, slots, nodes[worker])
        means = allocate_means(aggregator, memory.slots[0].gradient)
        self._shares = [
            (block, mean, {node: slots[node[0]].gradient[block.place] for each in nodes for node in each})
            for block, mean in zip(aggregator.blocks, means, strict=True)
        ]
        self._gaps = gaps_of(aggregator.layout)
        self._leads = worker == 0
        self._clips_by_norm = aggregator.clips_by_norm

    def slot(self, lane: int) -> Slot:
        """Where the lane's contribution goes; in an audited step each to a place of its own."""
        if self._step == self.apart_at:
            return self._memory.slots[lane]
        return self._sums.slot(self._step, lane, self.state)

    def gather(self, mine: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """The contract's; a worker by itself has all."""
        if len(mine) == len(self._memory.slots):
            return list(mine.values())
        return gather_in_memory(self._memory.slots, self._gaps, self._barrier, mine)

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
        self._sums.end(self._step, old, apart=self._step == self.apart_at)
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


class LaneSums:
    """A worker's own subtrees, added up lane by lane: with as many vectors as they are deep, not one a lane.

    A subtree's sum is in its first lane's slot, where all workers find it. Sums that wait for others lie in this
    process's own memory. All additions are those of `tree_sum_`, in another order of time; so no bit changes.

    Args:
        aggregator: whose norms are taken of each lane's gradient in some steps.
        slots: all lanes'.
        nodes: the worker's whole subtrees.
    """

    def __init__(self, aggregator: Aggregator, slots: Sequence[Slot], nodes: Sequence[Node]) -> None:
        self._norms = aggregator.norms
        self._nodes = {lane: node for node in nodes for lane in range(*node)}
        self._slots = slots
        turns = max((right_turns(node, lane) for lane, node in self._nodes.items()), default=0)
        self._scratch = Scratch(aggregator.layout, turns)
        self._added = {lane: self._added_slot(lane) for lane in self._nodes}
        self._single = {lane: replace(slots[lane], gradient=self._vector(lane), early=True) for lane in self._nodes}
        self._lefts = {lane: self._left_vectors(lane) for lane in self._nodes}
        self._noted: int | None = None

    def slot(self, step: int, lane: int, state: State) -> Slot:
        """Of the lane that comes next, at the state before the update.

        Siblings are added while the second is fresh from backward, and so is all that waits for them: in fewer trips
        through memory. Where every lane's norm is wanted, each goes to a vector of its own first.
        """
        if not self._norms.is_due(step):
            return self._added[lane]
        self._add_noted(step, state)
        self._noted = lane
        return self._single[lane]

    def end(self, step: int, state: State, *, apart: bool) -> None:
        """All lanes are there: each subtree's sum is in its first lane's slot then.

        Args:
            state: before the update.
            apart: whether every lane is in its own slot.
        """
        if apart:
            self._norms.note_lanes(step, [self._slots[lane] for lane in self._nodes], state)
            for start, stop in dict.fromkeys(self._nodes.values()):
                tree_sum_([slot.gradient for slot in self._slots[start:stop]])
        elif self._norms.is_due(step):
            self._add_noted(step, state)
            self._scratch.give_back()
        self._noted = None

    def _add_noted(self, step: int, state: State) -> None:
        """Notes the norm of the lane before, and adds up what is complete with it."""
        lane = self._noted
        if lane is None:
            return
        self._norms.note_lanes(step, [self._single[lane]], state)
        total = self._single[lane].gradient
        for left in self._lefts[lane]:
            total = left.add_(total)

    def _vector(self, lane: int) -> torch.Tensor:
        """Where the sum of a node that begins with a lane is made."""
        turns = right_turns(self._nodes[lane], lane)
        return self._scratch.vectors[turns - 1] if turns else self._slots[self._nodes[lane][0]].gradient

    def _left_vectors(self, lane: int) -> tuple[torch.Tensor, ...]:
        return tuple(self._vector(start) for start, _ in left_nodes(self._nodes[lane], lane))

    def _added_slot(self, lane: int) -> Slot:
        """A slot that adds what is there of the lane before and of others to the lane's gradient."""
        node = self._nodes[lane]
        lefts = left_nodes(node, lane)
        waits = lane + 1 < node[1] and (lane, lane + 1) in left_nodes(node, lane + 1)
        adds = (lane - 1, lane) in lefts
        vectors = tuple(self._vector(start) for start, _ in (lefts[1:] if adds else lefts))
        top = lefts[-1][0] if lefts else lane
        return replace(self._slots[lane], gradient=self._vector(top), lefts=vectors, adds=adds, waits=waits, early=True)


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

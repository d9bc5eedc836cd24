"""The exchange of any number of hosts: all-to-alls, in which whole subtrees of the lane tree travel.

Every host adds up the whole subtrees that it hosts and sends each share's part to its owner; owners finish the
tree, clip, and send the mean back; every host makes the same update of everything. The additions are those of
the `shared` exchange in the same order, so the bits are the same. The whole state is on every host after every
step: whoever is lost takes nothing with it. An all-to-all costs a fourth of an all-reduce (DESIGN, measurements).

The workers of one host meet in its memory, and the first of them talks for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.exchange.collective.bucket import Bucket, cut
from streamtrain.aggregate.exchange.collective.group import Membership, leave_group, lost_workers, send
from streamtrain.aggregate.exchange.memory import DeviceMemory, Memory
from streamtrain.aggregate.exchange.shared import barrier_of, moments_of, rest_of_state
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import Node, mean_of, node_sum_, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import Layout
from streamtrain.values import Moments, Update

Totals = tuple[Moments, Moments]


class CollectiveExchange:
    """See the module and `Exchange`.

    When a host is lost, the others are at the same step or one further; the half before the current one is then
    still whole, since nobody writes over a state before all have the next.

    Args:
        layout: of the model.
        aggregator: of this worker's share among those of its host.
        memory: of this host; its first word says how many updates are in the state.
        hosts: which lanes each host has; the group that the first worker of each has joined.
        crew: which lanes each worker of this host has.
        processes: process numbers of this host's workers, by worker.
    """

    def __init__(
        self,
        layout: Layout,
        aggregator: Aggregator,
        memory: Memory | DeviceMemory,
        hosts: Membership,
        crew: Membership,
        processes: Mapping[int, int],
    ) -> None:
        self._aggregator, self._memory, self._lanes = aggregator, memory, hosts.lanes
        self._step = int(memory.words[0])
        gradients = [slot.gradient for slot in memory.slots]
        mine, hosted = crew.hosting[crew.worker], hosts.hosting[hosts.worker]
        self._mine = memory.slots[mine.start : mine.stop]
        self._subtrees = [gradients[start:stop] for start, stop in whole_subtrees(hosts.lanes, mine)]
        nodes = whole_subtrees(hosts.lanes, hosted)
        self._leads, self._alone = crew.worker == 0, crew.workers == 1
        self._barrier = barrier_of(memory, crew.worker, processes)
        each = [node for lanes in crew.hosting for node in whole_subtrees(hosts.lanes, lanes)]
        self._joined: list[tuple[Node, dict[Node, torch.Tensor]]] = [
            (node, {part: gradients[part[0]][block.place] for part in each})
            for block in ([] if self._alone else aggregator.blocks)
            for node in nodes
        ]
        sums = {node: gradients[node[0]] for node in nodes}
        buckets = cut(aggregator.pieces, layout.dtype.itemsize) if self._leads else []
        none = memory.rows[:, :0]
        self._buckets = [
            Bucket(layout, pieces, hosts, sums, memory.rows if pieces is buckets[-1] else none) for pieces in buckets
        ]
        found = [mean for bucket in self._buckets for mean in bucket.means]
        shown = gradients[min(hosted.start, hosts.lanes - 1)]  # its sum is used up when the means are there
        self._shown = [] if self._alone else [(mean, shown[block.place]) for block, mean in found]
        self._means: list[tuple[Block, torch.Tensor]] = (
            found if self._alone else [(block, shown[block.place]) for block in aggregator.blocks]
        )

    @property
    def step(self) -> int:
        """See `Exchange`."""
        return self._step

    @property
    def state(self) -> State:
        """See `Exchange`."""
        return self._memory.states[self._step % 2]

    def slot(self, lane: int) -> Slot:
        """See `Exchange`."""
        return self._memory.slots[lane]

    def abandon(self) -> None:
        """See `Exchange`: the connections close, and whoever waits for this worker or its host notices."""
        self._barrier.abandon()
        if self._leads:
            leave_group()

    def meet(self) -> Update:
        """See `Exchange`."""
        memory, aggregator = self._memory, self._aggregator
        old, new = memory.states[self._step % 2], memory.states[1 - self._step % 2]
        self._add_up()
        totals = self._talk(old) if self._leads else None
        self._barrier.wait()  # the means of all lanes' gradients are there
        totals = totals or moments_of(memory.slots)
        lanes = aggregator.norms.of_lanes(self._step, memory.slots)
        begun = aggregator.begin(self._step, memory.used, old)
        decision, update = aggregator.decide(begun, totals, memory.norms.tolist())
        for block, mean in self._means:
            aggregator.descend(block, decision, mean, old, new)
        if self._leads:
            rest_of_state(memory.slots, memory.used, decision, old, new)
        self._barrier.wait()  # the new state is whole
        if lanes:
            update = replace(update, norms=aggregator.norms.whole(lanes, memory.norms.tolist(), old, new))
        self._step += 1
        if self._leads:
            memory.words[0] = self._step
        return update

    def _add_up(self) -> None:
        """The whole subtrees of this worker, then its share of those of the host."""
        self._aggregator.norms.note(self._step, self._mine)
        for gradients in self._subtrees:
            tree_sum_(gradients)
        self._barrier.wait()  # every worker's are there
        if not self._alone:
            for node, parts in self._joined:
                node_sum_(node, parts)
            self._barrier.wait()  # the host's are there

    def _talk(self, old: State) -> Totals:
        """Sends and receives for this host; the means of all buckets are there then, and all norms."""
        memory, aggregator = self._memory, self._aggregator
        with lost_workers(f"in step {self._step}"):
            for bucket in self._buckets:
                bucket.post(send)
            for bucket in self._buckets:
                bucket.wait()
            totals = moments_of(memory.slots)
            for bucket in self._buckets:
                for block, mean, parts in bucket.summed:
                    mean_of(self._lanes, parts, max(totals[0].count, 1), mean)
                    aggregator.clip(block, mean, old, memory.norms)
                bucket.post_means(memory.norms, send)
            for bucket in self._buckets:
                bucket.wait_for_means(memory.norms)
        for mean, shown in self._shown:
            shown.copy_(mean)
        return totals

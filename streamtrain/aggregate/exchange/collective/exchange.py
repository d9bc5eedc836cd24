"""The exchange of any number of hosts: all-to-alls, in which whole subtrees of the lane tree travel.

Every host adds up the whole subtrees that it hosts and sends each share's part to its owner; owners finish the
tree, clip, and send the mean back; every host makes the same update of everything. The additions are those of
the `shared` exchange in the same order, so the bits are the same. The whole state is on every host after every
step: whoever is lost takes nothing with it. An all-to-all costs a fourth of an all-reduce (DESIGN, measurements).

The workers of one host meet in its memory, and the first of them talks for all. A worker by itself on its host
sends what backward has made while it makes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from streamtrain.aggregate.buffers import update_buffers
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.exchange.barrier import make_barrier
from streamtrain.aggregate.exchange.collective.ahead import Ahead
from streamtrain.aggregate.exchange.collective.bucket import Bucket, cut, goes_ahead
from streamtrain.aggregate.exchange.collective.group import Membership, lost_workers
from streamtrain.aggregate.exchange.collective.outputs import swap
from streamtrain.aggregate.exchange.collective.wire import Wire
from streamtrain.aggregate.exchange.contract import Exchange, gather_in_memory
from streamtrain.aggregate.exchange.memory import Memory
from streamtrain.aggregate.moments import add_moments, add_weights
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import Node, node_sum_, take_mean, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import Layout, gaps_of
from streamtrain.values import Update

PARTS = 8
"""In which the vector travels: while one is added up the next ones come."""


class CollectiveExchange(Exchange):
    """The exchange of workers on several hosts.

    When a host is lost, the others are at the same step or one further; the half before the current one is then
    still whole, since nobody writes over a state before all have the next.

    Args:
        layout: of the model.
        aggregator: of this worker's share among those of its host.
        memory: of this host; its first word says how many updates are in the state.
        hosts: which lanes each host has.
        crew: which lanes each worker of this host has.
        processes: process numbers of this host's workers, by worker.
        wire: between the first workers of all hosts; ``None`` for others.
        parameters: the model's, in the layout's order, where buckets shall go while backward makes others.
    """

    def __init__(
        self,
        layout: Layout,
        aggregator: Aggregator,
        memory: Memory,
        hosts: Membership,
        crew: Membership,
        processes: Mapping[int, int],
        wire: Wire | None,
        parameters: Sequence[torch.Tensor] = (),
    ) -> None:
        super().__init__(memory.words, memory.states, make_barrier(memory.words, crew.worker, processes))
        self._aggregator = aggregator
        self._memory = memory
        self._lanes = hosts.lanes
        self._hosts = hosts
        self._hosted = hosts.hosting[hosts.worker]
        self._wire = wire
        gradients = [slot.gradient for slot in memory.slots]
        mine = crew.hosting[crew.worker]
        hosted = hosts.hosting[hosts.worker]
        self._mine = memory.slots[mine.start : mine.stop]
        self._subtrees = [gradients[start:stop] for start, stop in whole_subtrees(hosts.lanes, mine)]
        nodes = whole_subtrees(hosts.lanes, hosted)
        self._leads = wire is not None
        self._alone = crew.workers == 1
        each = [node for lanes in crew.hosting for node in whole_subtrees(hosts.lanes, lanes)]
        self._joined: list[tuple[Node, dict[Node, torch.Tensor]]] = [
            (node, {part: gradients[part[0]][block.place] for part in each})
            for block in ([] if self._alone else aggregator.blocks)
            for node in nodes
        ]
        sums = {node: gradients[node[0]] for node in nodes}
        buckets = cut(aggregator.pieces, layout.dtype.itemsize, PARTS) if self._leads else []
        self._at_once = self._alone and hosts.workers <= 2 and not aggregator.clips_by_norm
        overlaps = len(parameters) > 0 and goes_ahead(aggregator.pieces, layout.dtype.itemsize)
        self._carrier = len(buckets) - 1 if overlaps else 0  # brings the rows, which backward makes last
        self._buckets = [
            Bucket(layout, pieces, hosts, sums, memory.rows[:, : None if n == self._carrier else 0], self._at_once)
            for n, pieces in enumerate(buckets)
        ]
        self._sent = 0
        spans = [bucket.span for bucket in self._buckets[:-1]] if self._alone and overlaps else []
        self._last_lane = mine[-1] if len(mine) else -1
        self._ahead = Ahead(layout, parameters, gradients[self._last_lane], spans, self._send)
        found = [mean for bucket in self._buckets for mean in bucket.means]
        shown = gradients[min(hosted.start, hosts.lanes - 1)]  # its sum is used up when the means are there
        self._shown = [] if self._alone else [(mean, shown[block.place]) for block, mean in found]
        self._gaps = gaps_of(layout)
        self._slot_used_up = shown
        self._means: list[tuple[Block, torch.Tensor]] = (
            found if self._alone else [(block, shown[block.place]) for block in aggregator.blocks]
        )

    def slot(self, lane: int) -> Slot:
        """Where the lane's contribution goes; that the last one is asked for begins what is sent ahead."""
        apart = self._step == self.apart_at or self._aggregator.norms.is_due(self._step)
        if lane == self._last_lane and not apart:
            self._ahead.begin()
        return self._memory.slots[lane]

    def abandon(self) -> None:
        """Closes the connections too, so that whoever waits for this worker's host notices."""
        super().abandon()
        self.leave()

    def leave(self) -> None:
        """Closes the connections; the host's block, which the next formation may meet in, is left as it is."""
        self._ahead.close()
        if self._wire is not None:
            self._wire.close()

    def gather(self, mine: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """The contract's: within a host by its memory, between hosts by their first workers."""
        slots = self._memory.slots
        hosted = self._hosted
        if self._alone:
            own = list(mine.values())
        else:
            at = {lane - hosted.start: data for lane, data in mine.items()}
            own = gather_in_memory(slots[hosted.start : hosted.stop], self._gaps, self._barrier, at)
        others: dict[int, torch.Tensor] = {}
        if self._wire is not None:
            with lost_workers(f"in step {self._step}"):
                others = swap(self._wire.send, self._hosts, own)
        if self._alone:
            return [own[lane - hosted.start] if lane in hosted else others[lane] for lane in range(self._lanes)]
        found = gather_in_memory(slots, self._gaps, self._barrier, others)
        return [*found[: hosted.start], *own, *found[hosted.stop :]]

    def meet(self) -> Update:
        """The contract's, in two waits of a host's workers, around what their first one sends and receives.

        Every host makes the whole update, not its share of it: the mean has travelled to all, and parameters would be
        as many bytes. So the whole state is everywhere, and a lost host takes none of it along.
        """
        memory = self._memory
        aggregator = self._aggregator
        old, new = self.state, self.next_state
        self._add_up()
        if self._wire is not None:
            with lost_workers(f"in step {self._step}"):
                self._talk(self._wire, old, new)
        self._barrier.wait()  # the means of all lanes' gradients are there
        totals = add_moments(memory.slots)
        lanes = aggregator.norms.read_lanes(self._step, memory.slots)
        decision = aggregator.begin(self._step, memory.used, old)
        decision, update = aggregator.decide(decision, totals, memory.norms.tolist())
        if decision.skipped or not self._at_once:
            for block, mean in self._means:
                aggregator.descend(block, decision, mean, old, new, memory.changes)
        if self._leads:
            update_buffers(memory.slots, memory.used, decision, old, new)
        self._barrier.wait()  # the new state is whole
        if self._shown:  # an optimizer uses gradients up, gaps included, and lanes write only what lies between these
            self._slot_used_up.index_fill_(0, self._gaps, 0)
        self._commit(writes=self._leads)
        return aggregator.norms.add_to(update, lanes, memory.norms, memory.changes)

    def _add_up(self) -> None:
        """The whole subtrees of this worker, then its share of those of the host."""
        self._ahead.end()
        self._aggregator.norms.note_lanes(self._step, self._mine, self.state)
        if self._alone:
            return  # each bucket's just before it goes
        for gradients in self._subtrees:
            tree_sum_(gradients)
        self._barrier.wait()  # every worker's are there
        for node, parts in self._joined:
            node_sum_(node, parts)
        self._barrier.wait()  # the host's are there

    def _send(self) -> None:
        """Begins to send the next bucket."""
        assert self._wire is not None
        bucket = self._buckets[self._sent]
        for gradients in self._subtrees if self._alone else ():
            tree_sum_([gradient[bucket.span] for gradient in gradients])
        bucket.post(self._wire.send)
        self._sent += 1

    def _talk(self, wire: Wire, old: State, new: State) -> None:
        """Sends and receives for this host; the means of all buckets are there then, and all norms.

        Of two workers, each makes the update of a block with its mean, where no norm of all can change it.
        """
        memory = self._memory
        aggregator = self._aggregator
        norms = torch.from_numpy(self._memory.norms)
        while self._sent < len(self._buckets):
            self._send()
        self._sent = 0
        self._buckets[self._carrier].wait()
        decision = aggregator.begin(self._step, memory.used, old)
        weight = add_weights(memory.slots)
        for bucket in self._buckets:
            bucket.wait()
            for block, mean, parts in bucket.summed:
                take_mean(self._lanes, parts, weight, mean)
                aggregator.clip(block, mean, old, memory.norms)
                if self._at_once:
                    aggregator.descend(block, decision, mean, old, new, memory.changes)
            bucket.post_means(norms, wire.send)
        for bucket in self._buckets:
            bucket.wait_for_means(norms)
        for mean, shown in self._shown:
            shown.copy_(mean)

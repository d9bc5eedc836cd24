"""The exchange of any number of hosts: all-to-alls, in which whole subtrees of the lane tree travel.

Every worker adds up the whole subtrees that it hosts and sends each share's part to its owner; owners finish the
tree, clip, and send the mean back; everybody makes the same update of everything. The additions are those of
the `shared` exchange in the same order, so the bits are the same. The whole state is with every worker after every
step: whoever is lost takes nothing with it. An all-to-all costs a fourth of an all-reduce (DESIGN, measurements).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.exchange.collective.bucket import Bucket
from streamtrain.aggregate.exchange.collective.group import Membership, leave_group, lost_workers, send
from streamtrain.aggregate.exchange.rows import row_bytes, slots_in, used_in
from streamtrain.aggregate.exchange.shared import moments_of, rest_of_state
from streamtrain.aggregate.state import Slot, State
from streamtrain.aggregate.tree import mean_of, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import Layout
from streamtrain.values import Update


class CollectiveExchange:
    """See the module and `Exchange`.

    When a worker is lost, the others are at the same step or one further: then those who are further begin again
    with the same ``halves`` at the least of their steps, since nobody writes over a state before all have the next.

    Args:
        layout: of the model.
        aggregator: any worker's.
        halves: both halves of this worker's state; that of ``step`` is whole.
        membership: of the group that was joined.
        step: updates in the current state.
    """

    def __init__(
        self, layout: Layout, aggregator: Aggregator, halves: tuple[State, State], membership: Membership, step: int
    ) -> None:
        self._layout, self._aggregator, self._halves, self._step = layout, aggregator, halves, step
        self._lanes, device = membership.lanes, halves[0].parameters.device
        self._rows = torch.zeros((self._lanes, row_bytes(layout)), dtype=torch.uint8)
        mine = membership.hosting[membership.worker]
        gradients = [
            torch.zeros(layout.size * (lane in mine), dtype=layout.dtype, device=device) for lane in range(self._lanes)
        ]
        self._slots = slots_in(layout, self._rows, gradients)
        self._used = used_in(layout, self._rows)
        self._mine = self._slots[mine.start : mine.stop]
        self._norms = np.zeros(aggregator.norm_count)
        nodes = whole_subtrees(self._lanes, mine)
        self._subtrees = [gradients[start:stop] for start, stop in nodes]
        sums = {node: gradients[node[0]] for node in nodes}
        self._bucket = Bucket(layout, list(enumerate(aggregator.pieces)), membership, sums, self._rows)

    @property
    def step(self) -> int:
        """See `Exchange`."""
        return self._step

    @property
    def state(self) -> State:
        """See `Exchange`."""
        return self._halves[self._step % 2]

    def slot(self, lane: int) -> Slot:
        """See `Exchange`."""
        return self._slots[lane]

    def abandon(self) -> None:
        """See `Exchange`: the connections close, and whoever waits for this worker notices."""
        leave_group()

    def meet(self) -> Update:
        """See `Exchange`."""
        aggregator, bucket = self._aggregator, self._bucket
        old, new = self._halves[self._step % 2], self._halves[1 - self._step % 2]
        aggregator.norms.note(self._step, self._mine)
        for gradients in self._subtrees:
            tree_sum_(gradients)
        with lost_workers(f"in step {self._step}"):
            bucket.post(send)
            bucket.wait()
            totals, lanes = moments_of(self._slots), aggregator.norms.of_lanes(self._step, self._slots)
            for block, mean, parts in bucket.summed:
                mean_of(self._lanes, parts, max(totals[0].count, 1), mean)
                aggregator.clip(block, mean, old, self._norms)
            bucket.post_means(self._norms, send)
            bucket.wait_for_means(self._norms)
        begun = aggregator.begin(self._step, self._used, old)
        decision, update = aggregator.decide(begun, totals, self._norms.tolist())
        for block, mean in bucket.means:
            aggregator.descend(block, decision, mean, old, new)
        rest_of_state(self._slots, self._used, decision, old, new)
        if lanes:
            update = replace(update, norms=aggregator.norms.whole(lanes, self._norms.tolist(), old, new))
        self._step += 1
        return update

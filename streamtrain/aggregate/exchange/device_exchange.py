"""The exchange of workers with a GPU each: as the collective one, but a step never waits for the device.

Sums, norms, the decision whether there is an update, and what is reported of it stay on the device; the host only
puts work into its queue, and asks for all updates of a stint at once (`settle`). So a gradient that is not finite
stops the run at the end of the stint, with the state as it was before that step: all later ones were left out.
Written for CUDA and NCCL, tested on the CPU, and on PyTorch's "meta" device, which refuses whatever would wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from streamtrain.aggregate.buffers import update_buffers_on_device
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.device_arithmetic import DeviceArithmetic
from streamtrain.aggregate.exchange.barrier import Alone
from streamtrain.aggregate.exchange.collective.bucket import Bucket, cut
from streamtrain.aggregate.exchange.collective.group import Membership, leave_group, lost_workers, send
from streamtrain.aggregate.exchange.collective.outputs import swap
from streamtrain.aggregate.exchange.contract import Exchange, Pending
from streamtrain.aggregate.exchange.memory import DeviceMemory
from streamtrain.aggregate.moments import (
    ERROR,
    LOSS,
    NUMBERS,
    add_device_moments,
    check_weights,
    device_weights,
    moments_of,
)
from streamtrain.aggregate.state import DeviceSlot, State
from streamtrain.aggregate.tree import take_mean, tree_sum_, whole_subtrees
from streamtrain.aggregate.vector import Layout
from streamtrain.errors import NonFiniteError
from streamtrain.values import Update


class DeviceExchange(Exchange):
    """The exchange of workers that compute on a device each.

    Args:
        layout: of the model.
        aggregator: whose pieces, rates and norms these are.
        arithmetic: on the memory's device.
        memory: this worker's; its first word says how many updates are in the state.
        members: which lanes each worker has; more than one have joined a group.
    """

    def __init__(
        self,
        layout: Layout,
        aggregator: Aggregator,
        arithmetic: DeviceArithmetic,
        memory: DeviceMemory,
        members: Membership,
    ) -> None:
        super().__init__(memory.words, memory.states, Alone())
        self._aggregator = aggregator
        self._arithmetic = arithmetic
        self._memory = memory
        self._lanes = members.lanes
        self._members = members
        self._others = members.workers > 1
        mine = members.hosting[members.worker]
        gradients = [slot.gradient for slot in memory.slots]
        nodes = whole_subtrees(members.lanes, mine)
        self._mine = memory.slots[mine.start : mine.stop]
        self._subtrees = [gradients[start:stop] for start, stop in nodes]
        sums = {node: gradients[node[0]] for node in nodes}
        pieces = cut(aggregator.pieces, layout.dtype.itemsize)
        none = memory.rows[:, :0]
        self._buckets = [
            Bucket(layout, each, members, sums, memory.rows if each is pieces[-1] else none, reuse=False)
            for each in pieces
        ]
        self._means = [mean for bucket in self._buckets for mean in bucket.means]

    def slot(self, lane: int) -> DeviceSlot:
        """Where the lane's contribution goes, on the device."""
        return self._memory.slots[lane]

    def gather(self, mine: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """The contract's, on the device; waits for it, since how many bytes come is to be known."""
        if not self._others:
            return list(mine.values())
        with lost_workers(f"in step {self._step}"):
            found = swap(send, self._members, list(mine.values())) | dict(mine)
        return [found[lane] for lane in range(self._lanes)]

    def abandon(self) -> None:
        """Leaves the group, so that the others notice."""
        if self._others:
            leave_group()

    def meet(self) -> Pending:
        """Puts the whole step into the device's queue, and returns before it is done.

        So no error is raised here: what was not finite is known by `settle`.
        """
        memory = self._memory
        arithmetic = self._arithmetic
        step = self._step
        old, new = self.state, self.next_state
        norms = self._aggregator.norms
        norms.note_lanes(step, self._mine, old)
        for gradients in self._subtrees:
            tree_sum_(gradients)
        with lost_workers(f"in step {step}"):
            totals = self._gather(old)
        lanes = norms.read_lanes(step, memory.slots)
        decision = arithmetic.decide(step, totals, memory.norms, old)
        used = memory.used.amax(0) > 0
        for block, mean in self._means:
            if norms.is_weighed(step):
                norms.note_own(block, mean, old, memory.changes)
            arithmetic.descend(block, decision, mean, used, (old, new))
            if norms.is_shown(step):
                arithmetic.note_change(block, old, new, memory.changes)
        update_buffers_on_device(memory.slots, used, decision, old, new, scaled=self._aggregator.scaled)
        shown, own = norms.gather(step, lanes, memory.norms, memory.changes) if lanes else (None, None)
        flags = decision.goes, decision.overflowed, decision.stopped
        rest = torch.stack([decision.norm, torch.stack(decision.scales).amin(), *(flag.double() for flag in flags)])
        numbers = torch.cat([totals, rest, old.scaler[:1]])
        self._commit(writes=True)
        return Pending(step, decision.rate, numbers, shown, own)

    def _gather(self, old: State) -> torch.Tensor:
        """Means and norms of all pieces; returns the minibatch's moments."""
        memory = self._memory
        for bucket in self._buckets if self._others else ():
            bucket.post(send)
        for bucket in self._buckets if self._others else ():
            bucket.wait()
        totals = add_device_moments(memory.slots)
        weight = device_weights(totals)
        for bucket in self._buckets:
            for block, mean, parts in bucket.summed:
                take_mean(self._lanes, parts, weight, mean)
                self._arithmetic.clip(block, mean, old, memory.norms)
            bucket.post_means(memory.norms, send)
        for bucket in self._buckets:
            bucket.wait_for_means(memory.norms)
        return totals


def settle(meetings: Sequence[Update | Pending]) -> list[Update]:
    """The updates, all known; waits for the device once.

    Raises:
        NonFiniteError: the loss or the gradient of one of them; the state is that before it.
        NoWeight: all examples of one weigh 0, or one a number that is none.
    """
    pending = [each for each in meetings if isinstance(each, Pending)]
    updates = [each for each in meetings if isinstance(each, Update)]
    rows = torch.stack([each.numbers for each in pending]).tolist() if pending else []
    for each, numbers in zip(pending, rows, strict=True):
        loss, error = (moments_of(numbers[part]) for part in (LOSS, ERROR))
        norm, clip_scale, goes, overflowed, stopped, loss_scale = numbers[2 * NUMBERS :]
        if stopped:
            check_weights(each.step, (loss, error))
            raise NonFiniteError(each.step, each.rate, norm, loss.mean)
        update = Update(each.step, loss, error, each.rate, norm, clip_scale, skipped=not goes)
        if goes:
            update = replace(update, norms=each.norms, own=each.own)
        if not goes and loss.count:
            update = replace(update, clip_scale=0.0)
        updates.append(replace(update, overflowed=bool(overflowed), loss_scale=loss_scale))
    return updates

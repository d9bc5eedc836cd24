"""What an update changes beside the vectors: the model's buffers, counts of updates, and the loss's scale.

Floating-point buffers become the mean over the lanes that had examples, but where all of these left the same number
it is that number: a constant keeps its bits, which a sum over three lanes would round. Other buffers are those of the
first of them, which is lane 0 unless its examples were bad or late. After a skipped step all are as they were, but
for the scale.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from streamtrain.aggregate.descent.decision import Decision, DeviceDecision
from streamtrain.aggregate.descent.scaler import adapt
from streamtrain.aggregate.state import DeviceSlot, Slot, State
from streamtrain.aggregate.tree import tree_sum_


def update_buffers(slots: Sequence[Slot], used: NDArray[np.uint8], decision: Decision, old: State, new: State) -> None:
    """Writes these parts of the new state; by one worker of those who share it.

    Args:
        slots: of the lanes, in order; what their buffers hold is used up.
        used: shape (lanes, parameters), 1 where a lane has a gradient.
    """
    if decision.loss_scale:
        adapt(old.scaler, new.scaler, torch.tensor(decision.overflowed, device=old.scaler.device))
    if decision.skipped:
        new.buffers.copy_(old.buffers)
        new.counters.copy_(old.counters)
        new.uses.copy_(old.uses)
        new.averaged.copy_(old.averaged)
        return
    had = [slot for slot in slots if slot.moments[0]]  # some: else the step is skipped
    if len(new.buffers):
        first = had[0].buffers.clone()
        same = functools.reduce(torch.logical_and, [slot.buffers == first for slot in had])
        new.buffers.copy_(torch.where(same, first, tree_sum_([slot.buffers for slot in had]).div_(len(had))))
    if len(new.counters):
        new.counters.copy_(had[0].counters)
    np.add(old.uses.numpy(), used.max(0), out=new.uses.numpy())
    if len(new.averaged):
        new.averaged.copy_(old.averaged + decision.averages)


def update_buffers_on_device(
    slots: Sequence[DeviceSlot],
    used: torch.Tensor,
    decision: DeviceDecision,
    old: State,
    new: State,
    *,
    scaled: bool,
) -> None:
    """The same without waiting for the device.

    Args:
        used: of each parameter, whether a lane has a gradient.
        scaled: whether losses are scaled.
    """
    had = torch.stack([slot.moments[0] > 0 for slot in slots])
    first_lane = had.int().argmax().view(1)
    if len(new.buffers):
        rows = torch.stack([slot.buffers for slot in slots])
        first_row = torch.index_select(rows, 0, first_lane)
        same = ((rows == first_row) | ~had[:, None]).all(0)
        whole = tree_sum_([torch.where(lane, slot.buffers, 0.0) for lane, slot in zip(had, slots, strict=True)])
        mean = torch.where(same, first_row[0], whole / had.sum().clamp(min=1))
        new.buffers.copy_(torch.where(decision.goes, mean, old.buffers))
    if len(new.counters):
        first = torch.index_select(torch.stack([slot.counters for slot in slots]), 0, first_lane)
        new.counters.copy_(torch.where(decision.goes, first[0], old.counters))
    new.uses.copy_(torch.where(decision.goes, old.uses + used, old.uses))
    new.averaged.copy_(old.averaged + (decision.goes & decision.averages))
    if scaled:
        adapt(old.scaler, new.scaler, decision.overflowed)

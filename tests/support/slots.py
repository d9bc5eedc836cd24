"""Brings whole gradients into slots, as plainly as their contract says it."""

import threading

import torch

from streamtrain.aggregate.state import DeviceSlot, Slot

OF_THREAD = threading.local()
"""A worker is a thread in these tests; each keeps the gradient of a lane that waits."""


def leave(slot: Slot | DeviceSlot, gradient: torch.Tensor) -> None:
    """Leaves a lane's gradient, a vector of the layout."""
    if slot.waits:
        OF_THREAD.kept = gradient.clone()
        return
    total = OF_THREAD.kept + gradient if slot.adds else gradient
    for left in slot.lefts:
        total = left + total
    slot.gradient.copy_(total)

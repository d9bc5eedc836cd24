"""Moments of losses and errors: left in a lane's slot, and added up over the lanes; on the host or on a device.

The formulas are those of `streamtrain.values`. On a device a sample's moments are a tensor of shape (3,), float64:
count, mean, and sum of squared deviations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamtrain.aggregate.state import DeviceSlot, Slot
from streamtrain.values import Moments, merged_moments

KNOWN_TO_NUMPY = (torch.float32, torch.float64)
Values = tuple[torch.Tensor, torch.Tensor]
"""Loss and error of each example, shape (examples,)."""
Sample = tuple[float, float, float]
"""Count, mean and sum of squared deviations."""


def take_moments(values: torch.Tensor) -> Moments:
    """Of each example's loss or error; waits for the device where there is one."""
    values = values.detach().cpu()
    return Moments.of((values if values.dtype in KNOWN_TO_NUMPY else values.double()).numpy())


def leave_moments(slot: Slot | DeviceSlot, pieces: Sequence[Values]) -> None:
    """Leaves the moments of a lane's losses and errors in its slot; on a device without waiting for it.

    Args:
        pieces: of the lane's examples; none where it has none, and the slot says so already.
    """
    if not pieces:
        return
    if isinstance(slot, DeviceSlot):
        both = ([take_device_moments(values) for values in each] for each in zip(*pieces, strict=True))
        slot.moments.copy_(torch.cat([_merged_on_device(each) for each in both]))
        return
    loss, error = Moments(), Moments()
    for losses, errors in pieces:
        loss += take_moments(losses)
        error += take_moments(errors)
    slot.moments[:] = (loss.count, loss.mean, loss.m2, error.count, error.mean, error.m2)


def add_moments(slots: Sequence[Slot]) -> tuple[Moments, Moments]:
    """Moments of the minibatch's losses and of its errors, added in lane order."""
    loss = error = (0.0, 0.0, 0.0)  # no `Moments` before the last lane: they would cost more than the sums
    for slot in slots:
        numbers = slot.moments.tolist()
        loss = _merged(loss, numbers[:3])
        error = _merged(error, numbers[3:])
    return Moments(int(loss[0]), *loss[1:]), Moments(int(error[0]), *error[1:])


def add_device_moments(slots: Sequence[DeviceSlot]) -> torch.Tensor:
    """The same on a device: those of the losses, then those of the errors, shape (6,)."""
    losses, errors = ([slot.moments[half] for slot in slots] for half in (slice(0, 3), slice(3, 6)))
    return torch.cat([_merged_on_device(losses), _merged_on_device(errors)])


def take_device_moments(values: torch.Tensor) -> torch.Tensor:
    """Of each example's loss or error, on their device."""
    data = values.detach().double().flatten()
    mean = data.mean()
    return torch.stack([torch.full_like(mean, data.numel()), mean, (data - mean).square().sum()])


def _merged(one: Sample, other: Sample) -> Sample:
    """As `Moments` are added, to the bit."""
    if not (one[0] and other[0]):
        return other if not one[0] else one
    count = one[0] + other[0]
    return (count, *merged_moments(one, other, count))


def _merged_on_device(samples: Sequence[torch.Tensor]) -> torch.Tensor:
    whole = samples[0]
    for sample in samples[1:]:
        count = whole[0] + sample[0]
        whole = torch.stack([count, *merged_moments(whole, sample, count.clamp(min=1))])
    return whole

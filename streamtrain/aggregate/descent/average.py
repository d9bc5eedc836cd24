"""Vectors that are carried from one state to the next without the optimizer: kept, passed over, averaged."""

from __future__ import annotations

from typing import Any

import torch

from streamtrain.aggregate.state import AVERAGE, PARAMETERS, State, Vectors
from streamtrain.job.update import Average


def keep(old: State, new: State, place: slice) -> None:
    """No update of the elements at ``place``; the average is not touched."""
    after = new.at(place)
    for name, before in old.at(place).items():
        if name != AVERAGE:
            after[name].copy_(before)


def skip(old: State, new: State, place: slice) -> None:
    """As if the step had not been: the average stays too."""
    after = new.at(place)
    for name, before in old.at(place).items():
        after[name].copy_(before)
    new.numbers.copy_(old.numbers)


def follow(average: Average, old: Vectors, new: Vectors, averaged: int, *, takes_in: bool) -> None:
    """The average after one more update, ``a ← a + w·(θ - a)``; ``θ`` itself until it has taken in two.

    In the semantics of `torch.optim.swa_utils.AveragedModel`: with `get_ema_multi_avg_fn(decay)` the weight is one
    minus the decay, and with equal weights one over their number.

    Args:
        averaged: how many it has taken in. takes_in: whether it takes in this one.
    """
    if not averaged:
        new[AVERAGE].copy_(new[PARAMETERS])
    elif takes_in:
        torch.lerp(old[AVERAGE], new[PARAMETERS], weight_of(average, averaged), out=new[AVERAGE])
    else:
        new[AVERAGE].copy_(old[AVERAGE])


def follow_on_device(
    average: Average, old: Vectors, new: Vectors, averaged: torch.Tensor, goes: torch.Tensor, *, takes_in: bool
) -> None:
    """The same without waiting for the device; ``averaged`` and ``goes``, whether there is an update, of shape ()."""
    ones = torch.ones((), dtype=torch.float64, device=averaged.device)
    newest = ones * weight_of(average, averaged.double()) if takes_in else ones * 0
    weight = torch.where(goes, torch.where(averaged > 0, newest, ones), ones * 0).to(new[AVERAGE].dtype)
    torch.lerp(old[AVERAGE], new[PARAMETERS], weight, out=new[AVERAGE])


def weight_of(average: Average, averaged: Any) -> Any:
    """Of the newest parameters in the average that has taken in so many: a number, or a tensor of shape ()."""
    return 1 / (averaged + 1) if average.decay is None else 1.0 - average.decay

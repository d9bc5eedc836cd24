"""What is decided about a step: whether there is an update, and what to do when something is not finite.

The same lines serve the host and a device: on a device all numbers are tensors of shape (), and nobody waits for them.
So nothing here may branch on a number, and flags are joined by ``&`` and turned round by ``^ True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.scaler import LEAST

KEPT = -1
"""In place of a number of updates: none is made now."""
Number = Any
"""An int, a float or a bool; on a device a tensor of shape ()."""


@dataclass(frozen=True)
class Decision:
    """How all aggregators update in this step; the same in all of them, since made from the same numbers.

    Attributes:
        step, learning_rate: of the update.
        updates: that the parameters had before, where their optimizers count them.
        others: parameters that are not treated like the rest, as (start, stop, updates that they had, or `KEPT` where
            they have no gradient), in order.
        scales: the factor that clipping by norm applies, by the `Rule`'s ``clipped_with``; empty: 1 for all.
        skipped: no update; ``overflowed``: since a float16 was not large enough.
        loss_scale: that gradients were computed with; 0 where none is.
        averaged: updates that the average has taken in. averages: whether it takes in this one.
    """

    step: int
    learning_rate: float
    updates: int = 0
    others: tuple[tuple[int, int, int], ...] = ()
    scales: tuple[float, ...] = ()
    skipped: bool = False
    overflowed: bool = False
    loss_scale: float = 0.0
    averaged: int = 0
    averages: bool = False


@dataclass(frozen=True)
class DeviceDecision:
    """The same where its numbers are on a device; all but ``rate`` of shape ().

    Attributes:
        rate: the learning rate.
        goes: there is an update. overflowed: there is none since a float16 was not large enough.
        stopped: the run is to stop since something was not finite, in this step or one before.
        norm: the gradient's, before clipping by norm. scales: see `Decision`.
        averages: whether the average takes in this update.
    """

    rate: float
    goes: torch.Tensor
    overflowed: torch.Tensor
    stopped: torch.Tensor
    norm: torch.Tensor
    scales: tuple[torch.Tensor, ...]
    averages: bool


class Verdict(NamedTuple):
    """What a step's numbers say.

    Attributes:
        goes: there is an update. overflowed: there is none since a float16 was not large enough.
        streak: minibatches up to this one that were passed over one after another, since they were not finite.
        stops: they are too many.
    """

    goes: Number
    overflowed: Number
    streak: Number
    stops: Number


def judge(
    descent: Descent, *, examples: Number, loss: Number, norm: Number, loss_scale: Number, streak: Number
) -> Verdict:
    """Whether a step updates the parameters.

    It does where all is finite. A minibatch all of whose examples were bad ones is passed over, and counts for
    nothing. A gradient that is not finite while the loss is, and while losses are scaled, is the scale's fault: it is
    passed over, and the scale falls. Anything else that is not finite stops the run, or is passed over a few times.

    Args:
        examples, loss: of the minibatch, the latter the mean.
        norm: of its mean gradient, after clipping by value and by unit.
        loss_scale: 0 where losses are not scaled.
        streak: of the step before.
    """
    any_examples = examples > 0
    finite_loss = is_finite(loss)
    finite = is_finite(norm) & finite_loss
    goes = any_examples & finite
    fails = any_examples & (finite ^ True)
    overflowed = fails & finite_loss & (loss_scale > LEAST)
    streak = (streak + (fails & (overflowed ^ True))) * (goes ^ True)
    most = 0 if descent.nonfinite == "stop" else descent.skip_limit
    return Verdict(goes, overflowed, streak, streak > most)


def is_finite(number: Number) -> Number:
    """Whether it is neither NaN nor infinite."""
    return number - number == 0

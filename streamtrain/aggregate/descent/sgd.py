"""Stochastic gradient descent with momentum, in `torch.optim.SGD`'s semantics (Deep Learning, 8.3.1 – 8.3.3).

Reads the old parameters and momentum, writes the new ones elsewhere: a step that stops halfway
leaves what it started from.
"""

from __future__ import annotations

import torch

from streamtrain.aggregate.descent.rules import Rule
from streamtrain.aggregate.state import AVERAGE, PARAMETERS, State, Vectors
from streamtrain.job.optimizers import SGD

MOMENTUM = "momentum"


def vectors_of(sgd: SGD) -> tuple[str, ...]:
    """Names of the vectors that a state has, in its order."""
    average = () if sgd.average is None else (AVERAGE,)
    return (PARAMETERS, MOMENTUM, *average)


def descend(
    rule: Rule,
    learning_rate: float,
    gradient: torch.Tensor,
    old: Vectors,
    new: Vectors,
    *,
    updated_before: bool | torch.Tensor,
) -> None:
    """One update of some elements.

    Args:
        gradient: of these elements; used up.
        updated_before: whether this is not their first update, which dampening leaves alone; for all of them, or
            of each as a 0 or a 1 of the gradient's type.
    """
    velocity = new[MOMENTUM]
    if rule.weight_decay:
        gradient.add_(old[PARAMETERS], alpha=rule.weight_decay)
    direction = gradient
    if rule.momentum:
        damped = gradient.mul(1.0 - rule.dampening * updated_before) if rule.dampening else gradient
        torch.add(damped, old[MOMENTUM], alpha=rule.momentum, out=velocity)
        direction = gradient.add_(velocity, alpha=rule.momentum) if rule.nesterov else velocity
    torch.add(old[PARAMETERS], direction, alpha=-learning_rate * rule.lr_factor, out=new[PARAMETERS])


def direction_of(rule: Rule, gradient: torch.Tensor, new: Vectors) -> torch.Tensor:
    """What `descend` went along: the parameters' change over minus the rate.

    Args:
        gradient: as `descend` left it.
    """
    return new[MOMENTUM] if rule.momentum and not rule.nesterov else gradient


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


def follow(old: Vectors, new: Vectors, decay: float, *, first: bool) -> None:
    """Exponential moving average of the parameters, ``a ← decay·a + (1 - decay)·θ``; at first ``θ`` itself.

    In the semantics of `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`.
    """
    if first:
        new[AVERAGE].copy_(new[PARAMETERS])
    else:
        torch.lerp(old[AVERAGE], new[PARAMETERS], 1.0 - decay, out=new[AVERAGE])

"""Stochastic gradient descent with momentum, in `torch.optim.SGD`'s semantics (Deep Learning, 8.3.1 – 8.3.3).

Reads the old parameters and momentum, writes the new ones elsewhere: a step that stops halfway
leaves what it started from.
"""

from __future__ import annotations

import torch

from streamtrain.aggregate.descent.rules import Rule
from streamtrain.aggregate.state import State, Vectors


def descend(
    rule: Rule,
    learning_rate: float,
    gradient: torch.Tensor,
    old: Vectors,
    new: Vectors,
    *,
    enters: float | torch.Tensor | None,
) -> None:
    """One update of some elements.

    Args:
        gradient: of these elements; used up.
        enters: factor with which the gradient enters the momentum: 1 minus the dampening, but for a first update;
            ``None`` for 1.
    """
    velocity = new.momentum
    if rule.weight_decay:
        gradient.add_(old.parameters, alpha=rule.weight_decay)
    direction = gradient
    if rule.momentum:
        damped = gradient if enters is None else gradient.mul(enters)
        torch.add(damped, old.momentum, alpha=rule.momentum, out=velocity)
        direction = gradient.add_(velocity, alpha=rule.momentum) if rule.nesterov else velocity
    torch.add(old.parameters, direction, alpha=-learning_rate * rule.lr_factor, out=new.parameters)


def direction(rule: Rule, gradient: torch.Tensor, new: Vectors) -> torch.Tensor:
    """What `descend` went along: the parameters' change over minus the rate.

    Args:
        gradient: as `descend` left it.
    """
    return new.momentum if rule.momentum and not rule.nesterov else gradient


def keep(old: State, new: State, place: slice) -> None:
    """No update of the elements at ``place``; the average is not touched."""
    new.parameters[place] = old.parameters[place]
    new.momentum[place] = old.momentum[place]


def skip(old: State, new: State, place: slice) -> None:
    """As if the step had not been: the average stays too."""
    keep(old, new, place)
    if len(new.average):
        new.average[place] = old.average[place]


def average(old: Vectors, new: Vectors, decay: float, *, first: bool) -> None:
    """Exponential moving average of the parameters, ``a ← decay·a + (1 - decay)·θ``; at first ``θ`` itself.

    In the semantics of `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`.
    """
    if first:
        new.average.copy_(new.parameters)
    else:
        torch.lerp(old.average, new.parameters, 1.0 - decay, out=new.average)

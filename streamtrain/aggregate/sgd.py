"""Stochastic gradient descent with momentum, in `torch.optim.SGD`'s semantics (Deep Learning, 8.3.1 – 8.3.3).

Reads the old parameters and momentum, writes the new ones elsewhere: a step that stops halfway
leaves what it started from.
"""

from __future__ import annotations

import math

import torch

from streamtrain.job import SGD, Schedule


def schedule_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor of the learning rate at global ``step`` of a run of at most ``steps``.

    Linear from ``1/warmup_steps`` to 1 over the warm-up, then 1, or falling to ``floor`` at the last step.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
    done = min(1.0, (step - schedule.warmup_steps) / max(1, steps - 1 - schedule.warmup_steps))
    fall = done if schedule.kind == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1.0 - (1.0 - schedule.floor) * fall


def descend(
    sgd: SGD,
    learning_rate: float,
    gradient: torch.Tensor,
    old: tuple[torch.Tensor, torch.Tensor],
    new: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """One update of one chunk; ``old`` and ``new`` are (parameters, momentum), ``gradient`` is used up."""
    (parameters, velocity), (new_parameters, new_velocity) = old, new
    if sgd.weight_decay:
        gradient.add_(parameters, alpha=sgd.weight_decay)
    direction = gradient
    if sgd.momentum:
        torch.mul(velocity, sgd.momentum, out=new_velocity).add_(gradient)
        direction = gradient.add_(new_velocity, alpha=sgd.momentum) if sgd.nesterov else new_velocity
    torch.add(parameters, direction, alpha=-learning_rate, out=new_parameters)

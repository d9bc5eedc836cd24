"""The learning rate as a function of the step: pure arithmetic on Python floats."""

from __future__ import annotations

import math

from streamtrain.job.update import Optimizer, Schedule


def base_rate(optimizer: Optimizer, batch_size: int) -> float:
    """The rate before the schedule; scaled with the batch size, by the optimizer's rule, where one is given."""
    if optimizer.lr_batch_size is None:
        return optimizer.lr
    if optimizer.scaling == "linear":
        return optimizer.lr * batch_size / optimizer.lr_batch_size
    return optimizer.lr * math.sqrt(batch_size / optimizer.lr_batch_size)


def schedule_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor of the learning rate at global ``step`` of a run of at most ``steps``.

    Linear from ``1/warmup_steps`` to 1 over the warm-up (Goyal et al. 2017), then by kind: 1; falling
    to ``floor`` at the last step (cosine: Loshchilov & Hutter 2017, without restarts); times ``gamma``
    for each milestone that is past; or ``√(w/(step+1))`` with ``w`` warm-up steps, at least 1 (Vaswani
    et al. 2017).
    """
    warm = schedule.warmup_steps
    if step < warm:
        return (step + 1) / warm
    if schedule.kind == "step":
        return float(schedule.gamma ** sum(milestone <= step for milestone in schedule.milestones))
    if schedule.kind == "inverse_sqrt":
        return math.sqrt(max(1, warm) / (step + 1))
    if schedule.kind == "constant":
        return 1.0
    done = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    fall = done if schedule.kind == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1.0 - (1.0 - schedule.floor) * fall

"""The learning rate as a function of the step: pure arithmetic on Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from streamtrain.checks import require
from streamtrain.errors import JobError, complaint, users_code
from streamtrain.job.update import BatchSize, Optimizer, Schedule, first_size
from streamtrain.order import Order, SegmentedOrder

MOST_TRIED = 100_000
"""Steps at which a function is tried before a run."""
RISE = 0.3
"""Part of the steps over which `one-cycle` rises, where no warm-up says otherwise (as in PyTorch)."""


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each global step: the optimizer's, by the batch size, times the schedule's factor.

    A schedule counts minibatches of the first size. So it stands at the same examples whatever the batch does: its
    milestones do not move, and it ends with the data, also where nobody knows yet how many steps that will take.

    Attributes:
        schedule: the job's.
        batch_size: the job's.
        steps: of the longest possible run, if all its minibatches were of the first size.
        order: of the minibatches, where their size changes.
    """

    schedule: Schedule | Callable[[int], float]
    batch_size: int | BatchSize
    steps: int
    order: Order | SegmentedOrder | None = None

    def __call__(self, optimizer: Optimizer, step: int) -> float:
        """Of the update that comes after ``step`` others."""
        first = first_size(self.batch_size)
        if isinstance(self.batch_size, int) or self.order is None:
            return base_rate(optimizer, first) * schedule_factor(self.schedule, step, self.steps)
        rule = self.batch_size.scale_lr or optimizer.scaling
        scheduled = self.order.steps_of_size(step, first)
        rate = base_rate(optimizer, first) * scaled(rule, self.order.size(step) / first)
        return rate * schedule_factor(self.schedule, scheduled, self.steps)


def base_rate(optimizer: Optimizer, batch_size: int) -> float:
    """The rate before the schedule; scaled with the batch size, by the optimizer's rule, where one is given."""
    if optimizer.lr_batch_size is None:
        return optimizer.lr
    if optimizer.scaling == "linear":
        return optimizer.lr * batch_size / optimizer.lr_batch_size
    return optimizer.lr * scaled(optimizer.scaling, batch_size / optimizer.lr_batch_size)


def scaled(rule: str, ratio: float) -> float:
    """Factor of the rate for minibatches ``ratio`` times as large: by ``linear``, ``root`` or ``none``."""
    if rule == "none":
        return 1.0
    return ratio if rule == "linear" else math.sqrt(ratio)


def schedule_factor(schedule: Schedule | Callable[[int], float], step: int, steps: int) -> float:
    """Factor of the learning rate at global ``step`` of a run of at most ``steps``.

    Linear from ``1/warmup_steps`` to 1 over the warm-up (Goyal et al. 2017), then by kind: 1; falling
    to ``floor`` at the last step (cosine: Loshchilov & Hutter 2017, without restarts; one-cycle: Smith & Topin 2019;
    warmup-stable-decay, over its last steps: Hu et al. 2024); times ``gamma`` for each milestone that is past;
    ``√(w/(step+1))`` with ``w`` warm-up steps, at least 1 (Vaswani et al. 2017); or by cosines that begin again.

    Raises:
        JobError: a function fails, or gives no finite number of at least 0.
    """
    if not isinstance(schedule, Schedule):
        return _factor_of(schedule, step)
    warm = schedule.warmup_steps
    if schedule.kind == "one-cycle":
        return _one_cycle(schedule, step, steps)
    if step < warm:
        return (step + 1) / warm
    if schedule.kind == "step":
        return float(schedule.gamma ** sum(milestone <= step for milestone in schedule.milestones))
    if schedule.kind == "inverse_sqrt":
        return math.sqrt(max(1, warm) / (step + 1))
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine-restarts":
        return _fall(_part_of_cycle(schedule, step - warm), schedule.floor, cosine=True)
    if schedule.kind == "warmup-stable-decay":
        done = (step - (steps - 1 - schedule.decay_steps)) / schedule.decay_steps
        return _fall(min(1.0, max(0.0, done)), schedule.floor, cosine=False)
    done = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    return _fall(done, schedule.floor, cosine=schedule.kind == "cosine")


def check_schedule(schedule: Schedule | Callable[[int], float], steps: int) -> None:
    """Refuses a schedule that does not fit a run of at most ``steps``; a function is tried at `MOST_TRIED` of them.

    Raises:
        ConfigError: the decay is longer than what the warm-up leaves.
        JobError: a function fails, gives no finite number of at least 0, or another one in a second try.
    """
    if isinstance(schedule, Schedule):
        left = max(steps - schedule.warmup_steps, 0)
        fits = schedule.decay_steps <= left
        expected = f"at most {left:,}, what the warm-up leaves of {steps:,} steps"
        require(fits, "schedule.decay_steps", expected, schedule.decay_steps, "lower it, or warmup_steps")
        return
    tried = min(steps, MOST_TRIED)
    for number in range(tried):
        step = number * (steps - 1) // max(1, tried - 1)  # the first and the last are among them
        first = schedule_factor(schedule, step, steps)
        if schedule_factor(schedule, step, steps) != first:
            where, expected = f"schedule, at step {step:,}", "the same factor of the learning rate each time"
            do = "let it depend on the step alone"
            raise JobError(complaint(where, expected=expected, found="another one in a second try", do=do))


def _factor_of(function: Callable[[int], object], step: int) -> float:
    where = f"schedule, at step {step:,}"
    with users_code(where, "let it give a factor of the learning rate for every step"):
        factor = function(step)
    value = float(factor) if isinstance(factor, Real) else math.nan
    if not 0 <= value < math.inf:
        expected = "a finite factor of the learning rate, at least 0"
        raise JobError(complaint(where, expected=expected, found=repr(factor)[:100], do="correct the function"))
    return value


def _one_cycle(schedule: Schedule, step: int, steps: int) -> float:
    """By half a cosine from ``start`` to 1 and by another to ``floor``; the border may lie between two steps."""
    top = (schedule.warmup_steps or RISE * steps) - 1
    if step < top:
        return _fall(1 - step / top, schedule.start, cosine=True)
    return _fall(min(1.0, (step - top) / max(1.0, steps - 1 - top)), schedule.floor, cosine=True)


def _part_of_cycle(schedule: Schedule, at: int) -> float:
    """How much of its cycle a step has behind it."""
    length = schedule.cycle_steps
    if schedule.cycle_factor == 1:
        return at % length / length
    while at >= length:
        at -= length
        length *= schedule.cycle_factor
    return at / length


def _fall(done: float, floor: float, *, cosine: bool) -> float:
    """From 1 to ``floor``."""
    fall = (1 - math.cos(math.pi * done)) / 2 if cosine else done
    return 1.0 - (1.0 - floor) * fall

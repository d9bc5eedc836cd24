"""Learning rates over a run: by shape as PyTorch's schedulers give them, and by a function that is tried first."""

import math
import random
from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch.optim import lr_scheduler as scheduler

from streamtrain.aggregate.descent import schedule as schedule_module
from streamtrain.aggregate.descent.aggregator import Aggregator
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import LearningRate, check_schedule, schedule_factor
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of
from streamtrain.errors import ConfigError, JobError
from streamtrain.job import Schedule

Factor = Callable[[int], float]


def factors(schedule: Schedule | Factor, steps: int) -> list[float]:
    return [schedule_factor(schedule, step, steps) for step in range(steps)]


def halved(step: int) -> float:
    return 0.5**step + 0.1 * math.sin(step) ** 2


def test_schedules() -> None:
    warm = Schedule("linear", warmup_steps=4, floor=0.2)
    assert [schedule_factor(warm, step, 9) for step in (0, 3, 4, 8)] == [0.25, 1.0, 1.0, pytest.approx(0.2)]
    assert schedule_factor(Schedule("cosine"), 5, 11) == pytest.approx(0.5)
    assert schedule_factor(Schedule(), 10**9, 1) == 1.0
    root = Schedule("inverse_sqrt", warmup_steps=4)
    assert [schedule_factor(root, step, 9) for step in (1, 3, 15)] == [0.5, 1.0, 0.5]


def test_shapes_that_rise_stay_and_fall() -> None:
    stable = Schedule("warmup-stable-decay", warmup_steps=2, decay_steps=4, floor=0.2)
    assert factors(stable, 9) == pytest.approx([0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert factors(stable, 6) == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2]), "nothing is left that stays"
    cycle = Schedule("one-cycle", warmup_steps=3, start=0.5, floor=0.1)
    assert factors(cycle, 7) == pytest.approx([0.5, 0.75, 1, 0.8681981, 0.55, 0.2318019, 0.1])
    again = Schedule("cosine-restarts", warmup_steps=2, cycle_steps=2, cycle_factor=2)
    assert factors(again, 9) == pytest.approx([0.5, 1, 1, 0.5, 1, 0.8535534, 0.5, 0.1464466, 1])
    for kind in ("one-cycle", "warmup-stable-decay"):
        decay = 1 if kind == "warmup-stable-decay" else 0
        ended = schedule_factor(Schedule(kind, decay_steps=decay, floor=0.3), 99, 50)
        assert ended == pytest.approx(0.3), "never past its end"
    assert factors(Schedule("one-cycle", warmup_steps=5), 5)[-1] == 1.0, "no step is left to fall"


def stable_decay(optimizer: torch.optim.Optimizer) -> scheduler.LRScheduler:
    parts = [scheduler.ConstantLR(optimizer, 1.0), scheduler.LinearLR(optimizer, 1.0, 0.1, 19)]
    return scheduler.SequentialLR(optimizer, parts, [20])


PYTORCHS: dict[str, tuple[Schedule | Factor, Callable[[torch.optim.Optimizer], scheduler.LRScheduler]]] = {
    "step": (Schedule("step", milestones=(3, 25), gamma=0.5), lambda o: scheduler.MultiStepLR(o, [3, 25], 0.5)),
    "cosine": (Schedule("cosine", floor=0.1), lambda o: scheduler.CosineAnnealingLR(o, 39, eta_min=0.1)),
    "linear": (Schedule("linear", floor=0.1), lambda o: scheduler.LinearLR(o, 1.0, 0.1, 39)),
    "warm-up": (Schedule(warmup_steps=4), lambda o: scheduler.LinearLR(o, 0.25, 1.0, 3)),
    "one-cycle": (
        Schedule("one-cycle", floor=1 / 25e4),
        lambda o: scheduler.OneCycleLR(o, 1.0, total_steps=40, cycle_momentum=False),
    ),
    "one-cycle, its own": (
        Schedule("one-cycle", warmup_steps=7, start=0.1, floor=0.001),
        lambda o: scheduler.OneCycleLR(
            o, 1.0, total_steps=40, pct_start=7 / 40, cycle_momentum=False, div_factor=10, final_div_factor=100
        ),
    ),
    "warm-up, stable, decay": (Schedule("warmup-stable-decay", decay_steps=19, floor=0.1), stable_decay),
    "restarts": (
        Schedule("cosine-restarts", cycle_steps=7, floor=0.1),
        lambda o: scheduler.CosineAnnealingWarmRestarts(o, 7, eta_min=0.1),
    ),
    "longer restarts": (
        Schedule("cosine-restarts", cycle_steps=3, cycle_factor=2),
        lambda o: scheduler.CosineAnnealingWarmRestarts(o, 3, T_mult=2),
    ),
    "function": (halved, lambda o: scheduler.LambdaLR(o, halved)),
}


@pytest.mark.parametrize("case", PYTORCHS)
def test_promise_4_schedules_are_pytorchs(case: str) -> None:
    schedule, theirs = PYTORCHS[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    twin = theirs(optimizer)
    for step in range(40):
        assert schedule_factor(schedule, step, 40) == pytest.approx(twin.get_last_lr()[0], rel=1e-12, abs=1e-12)
        optimizer.step()
        twin.step()


@pytest.mark.parametrize("steps", [2, 3, 10, 33])
def test_promise_4_one_cycle_is_pytorchs_where_its_top_lies_between_two_steps(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    twin = scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, cycle_momentum=False)
    for found in factors(Schedule("one-cycle", floor=1 / 25e4), steps):
        assert found == pytest.approx(twin.get_last_lr()[0], rel=1e-12, abs=1e-12)
        optimizer.step()
        if twin.last_epoch < steps - 1:
            twin.step()


def failing(step: int) -> float:
    return [1.0, 0.5, 0.1][step]


BAD: dict[str, tuple[Factor, str]] = {
    "NaN": (lambda step: math.nan if step == 7 else 1.0, "schedule, at step 7: expected a finite factor .*, found nan"),
    "infinite": (lambda step: math.inf if step else 1.0, "schedule, at step 1: expected a finite .*, found inf; corr"),
    "negative": (lambda step: 1 - step / 5, "schedule, at step 6: .*, at least 0, found -0.19.*; correct the function"),
    "at the last": (lambda step: -1.0 if step == 9 else 1.0, "schedule, at step 9: expected a finite .*, found -1.0"),
    "no number": (lambda step: "0.1", "schedule, at step 0: expected a finite factor .*, found '0.1'"),  # type: ignore[arg-type, return-value]
    "nothing": (lambda step: None, "schedule, at step 0: expected a finite factor .*, found None"),  # type: ignore[arg-type, return-value]
    "failing": (
        failing,
        r"schedule, at step 3 failed: IndexError: list index out of range \(.*test_schedules.py:\d+\)",
    ),
    "drawing": (lambda step: random.random(), "schedule, at step 0: expected the same factor .* each time, found anot"),
}


@pytest.mark.parametrize("case", BAD)
def test_promise_10_a_function_is_tried_at_every_step_of_the_run(case: str) -> None:
    function, message = BAD[case]
    with pytest.raises(JobError, match=message) as raised:
        check_schedule(function, 10)
    assert "\n" not in str(raised.value)


def test_promise_10_of_very_many_steps_some_are_tried_and_a_bad_one_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    check_schedule(lambda step: seen.append(step) or 1.0, 10**9)  # type: ignore[func-returns-value]
    tried = sorted(set(seen))
    assert len(tried) == schedule_module.MOST_TRIED and (tried[0], tried[-1]) == (0, 10**9 - 1)
    check_schedule(lambda step: 1.0, 1)
    monkeypatch.setattr(schedule_module, "MOST_TRIED", 2)
    bad = Descent(SGD(lr=0.5), schedule=lambda step: -1.0 if step == 5 else 1.0)
    check_schedule(bad.schedule, 9)
    layout = layout_of(torch.nn.Linear(2, 2))
    aggregator = Aggregator(layout, bad, rate_of=LearningRate(bad.schedule, 1, 9), worker=0, workers=1)
    assert aggregator.rate(4) == 0.5
    with pytest.raises(JobError, match="schedule, at step 5: expected a finite factor .*, found -1.0"):
        aggregator.rate(5)


def test_promise_10_a_decay_that_is_longer_than_the_run_is_refused() -> None:
    schedule = Schedule("warmup-stable-decay", warmup_steps=10, decay_steps=90)
    check_schedule(schedule, 100)
    message = "schedule.decay_steps: expected at most 89, what the warm-up leaves of 99 steps, found 90; lower it"
    with pytest.raises(ConfigError, match=message):
        check_schedule(schedule, 99)
    with pytest.raises(ConfigError, match="schedule.decay_steps: expected at most 0, what the warm-up leaves of 3"):
        check_schedule(schedule, 3)


def test_a_counter_is_no_schedule() -> None:
    counter = count()
    with pytest.raises(JobError, match="expected the same factor of the learning rate each time, found another one"):
        check_schedule(lambda step: float(next(counter)), 10)

"""One policy for host and device: the same lines, given numbers or tensors, decide the same."""

import itertools
import math

import pytest
import torch

from streamtrain.aggregate.descent.clip import clip_scales
from streamtrain.aggregate.descent.decision import judge
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.exchange.memory import Capacity, private_memory
from streamtrain.aggregate.moments import add_moments, leave_moments
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of
from streamtrain.values import Moments, merged_moments

NUMBERS = (0.5, 0.0, math.inf, -math.inf, math.nan)
CASES = list(itertools.product((0, 3), NUMBERS, NUMBERS, (0.0, 1.0, 2.0), (0, 1, 2)))


@pytest.mark.parametrize(
    "descent", [Descent(SGD()), Descent(SGD(), nonfinite="skip", skip_limit=2)], ids=["stop", "skip"]
)
def test_a_device_judges_as_the_host_does(descent: Descent) -> None:
    for examples, loss, norm, scale, streak in CASES:
        here = judge(descent, examples=examples, loss=loss, norm=norm, loss_scale=scale, streak=streak)
        there = judge(
            descent,
            examples=torch.tensor(float(examples), dtype=torch.float64),
            loss=torch.tensor(loss, dtype=torch.float64),
            norm=torch.tensor(norm, dtype=torch.float64),
            loss_scale=torch.tensor(scale, dtype=torch.float64),
            streak=torch.tensor(streak),
        )
        for name in ("goes", "overflowed", "streak", "stops"):
            assert getattr(there, name).item() == getattr(here, name), (name, examples, loss, norm, scale, streak)


def test_what_stops_and_what_is_passed_over() -> None:
    def said(examples: int, loss: float, norm: float, scale: float = 0.0, streak: int = 0) -> tuple[object, ...]:
        descent = Descent(SGD(), nonfinite="skip", skip_limit=2)
        found = judge(descent, examples=examples, loss=loss, norm=norm, loss_scale=scale, streak=streak)
        return found.goes, found.overflowed, found.streak, found.stops

    assert said(3, 0.5, 1.0, streak=2) == (True, False, 0, False)
    assert said(3, math.nan, 1.0) == (False, False, 1, False)
    assert said(3, 0.5, math.inf, streak=2) == (False, False, 3, True)
    assert said(0, 0.0, 0.0, streak=2) == (False, False, 2, False), "without examples a streak neither grows nor ends"
    assert said(3, 0.5, math.inf, scale=2.0, streak=2) == (False, True, 2, False), "the scale is at fault"
    assert said(3, 0.5, math.inf, scale=1.0) == (False, False, 1, False), "the scale is at its least"
    assert said(3, math.inf, math.inf, scale=2.0) == (False, False, 1, False), "not the scale: the loss is infinite"


def test_scales_of_groups_are_the_same_on_a_device() -> None:
    norms = {0: 4.0, 1: 0.5, 2: 3.0}
    bounds = {0: 2.0, 1: 1.0, 2: None}
    here = clip_scales(bounds, norms.__getitem__, 1.0)
    there = clip_scales(
        bounds, lambda group: torch.tensor(norms[group], dtype=torch.float64), torch.tensor(1.0).double()
    )
    assert here == (2.0 / (4.0 + 1e-6), 1.0, 1.0) == tuple(each.item() for each in there)


def test_moments_of_numbers_and_of_tensors_are_one_formula() -> None:
    one, other = Moments(3, 0.5, 2.0), Moments(5, -1.5, 4.0)
    both = one + other
    tensors = [torch.tensor([m.count, m.mean, m.m2], dtype=torch.float64) for m in (one, other)]
    mean, m2 = merged_moments(*tensors, tensors[0][0] + tensors[1][0])
    assert (mean.item(), m2.item()) == (both.mean, both.m2)


def test_totals_are_the_lanes_moments_added_in_their_order_to_the_bit() -> None:
    layout = layout_of(torch.nn.Linear(1, 1))
    memory = private_memory(layout, Descent(SGD()), Capacity(4))
    draws = [torch.randn(count, generator=torch.Generator().manual_seed(count)) for count in (3, 0, 5, 2)]
    for slot, losses in zip(memory.slots, draws, strict=True):
        leave_moments(slot, [(losses[:1], losses[:1] ** 2), (losses[1:], losses[1:] ** 2)] if len(losses) else [])
    lanes = [Moments.of(losses[:1].numpy()) + Moments.of(losses[1:].numpy()) for losses in draws]
    errors = [Moments.of((x[:1] ** 2).numpy()) + Moments.of((x[1:] ** 2).numpy()) for x in draws]
    assert add_moments(memory.slots) == (sum(lanes, Moments()), sum(errors, Moments()))
    assert add_moments(memory.slots[1:2]) == (Moments(), Moments())

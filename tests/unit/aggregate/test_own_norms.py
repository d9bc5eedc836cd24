"""Norms of gradients in the optimizer's own norm, against its definition in float64, with several workers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from streamtrain.aggregate.descent.norms import StepNorms
from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.optimizers.adagrad import Adagrad
from streamtrain.aggregate.optimizers.adam import Adam
from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.rmsprop import RMSprop
from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.vector import layout_of
from streamtrain.job import Clip, Group, Optimizer
from streamtrain.measure.diagnostics.batch_efficiency import cost_of_doubling, may_double
from streamtrain.measure.diagnostics.noise_scale import Noise, NoiseScale, noise_of
from streamtrain.values import OwnNorms
from tests.unit.aggregate.test_norms import COUNTS, exchanged, model

OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[torch.Tensor], torch.Tensor]]] = {
    "sgd": (SGD(lr=0.01, momentum=0.9), lambda grads: torch.ones_like(grads[0])),
    "adam": (Adam(lr=1e-3), lambda grads: 1 / (decayed(grads, 0.999, corrected=True).sqrt() + 1e-8)),
    "adamw amsgrad": (
        AdamW(lr=1e-3, amsgrad=True),
        lambda grads: (
            1
            / (
                torch.stack([decayed(grads[: n + 1], 0.999) for n in range(len(grads))]).amax(0).sqrt()
                / (1 - 0.999 ** len(grads)) ** 0.5
                + 1e-8
            )
        ),
    ),
    "rmsprop": (RMSprop(lr=1e-3), lambda grads: 1 / (decayed(grads, 0.99).sqrt() + 1e-8)),
    "rmsprop centered": (
        RMSprop(lr=1e-3, centered=True),
        lambda grads: 1 / ((decayed(grads, 0.99) - averaged(grads, 0.99).square()).clamp(min=0).sqrt() + 1e-8),
    ),
    "adagrad": (Adagrad(lr=1e-2), lambda grads: 1 / (grads.square().sum(0).sqrt() + 1e-10)),
}
"""And the weights of its norm after the mean gradients of all steps so far, in rows."""


def averaged(rows: torch.Tensor, decay: float) -> torch.Tensor:
    found = torch.zeros_like(rows[0])
    for row in rows:
        found = decay * found + (1 - decay) * row
    return found


def decayed(grads: torch.Tensor, decay: float, *, corrected: bool = False) -> torch.Tensor:
    return averaged(grads.square(), decay) / (1 - decay ** len(grads) if corrected else 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_own_norms_are_those_of_their_definition(name: str) -> None:
    """Clipping by norm comes after them; the part of the rate that a group has is a weight too."""
    optimizer, weights_of = OPTIMIZERS[name]
    groups = (Group("*.bias", lr_factor=3.0),)
    descent = Descent(optimizer, clip=Clip(norm=1e9), groups=groups)
    updates, flat = exchanged(2, descent, norms_every=0, own_every=1)
    factor = torch.cat(
        [torch.full((p.numel(),), 3.0 if n.endswith("bias") else 1.0) for n, p in model().named_parameters()]
    )
    means: list[torch.Tensor] = []
    for step, update in enumerate(updates):
        assert update.norms is None and update.own is not None
        counts = COUNTS[step]
        weights = factor.double() * (
            weights_of(torch.stack(means)) if means else torch.full_like(factor, name == "sgd").double()
        )
        mean = torch.stack(flat[step]).sum(0) / sum(counts)
        lanes = [(n, float((weights * (flat[step][lane] / n).square()).sum())) for lane, n in enumerate(counts) if n]
        assert update.own.lanes == tuple((n, pytest.approx(squared, rel=1e-9)) for n, squared in lanes)
        assert update.own.whole == pytest.approx(float((weights * mean.square()).sum()), rel=1e-9)
        means.append(mean)


def test_promise_5_own_norms_have_the_same_bits_for_any_number_of_workers() -> None:
    runs = [exchanged(workers, Descent(AdamW(lr=1e-3)), norms_every=0, own_every=1)[0] for workers in (1, 2, 3)]
    assert runs[0] == runs[1] == runs[2]


def test_they_are_taken_at_steps_of_their_own() -> None:
    norms = StepNorms(layout_of(model()), (), 10, 4)
    shown = [step for step in range(200) if norms.is_shown(step)]
    weighed = [step for step in range(200) if norms.is_weighed(step)]
    assert (len(shown), len(weighed)) == (20, 50)
    assert {step for step in range(200) if norms.is_due(step)} == {*shown, *weighed}


def test_the_noise_scale_is_that_of_the_norm_and_not_the_euclidean_one() -> None:
    """Known answer: one axis with much signal, one with much noise, and a norm that all but leaves the second out."""
    generator = np.random.default_rng(0)
    truth, sigma, weights = np.array([1.0, 0.01]), np.array([1.0, 30.0]), np.array([1.0, 1e-4])
    scale = NoiseScale()
    for _ in range(4000):
        lanes = [generator.normal(truth, sigma / math.sqrt(n)) for n in (8, 8, 8, 4)]
        mean = sum(n * lane for n, lane in zip((8, 8, 8, 4), lanes, strict=True)) / 28
        norm = lambda g: float((weights * g**2).sum())  # noqa: E731
        scale.add(OwnNorms(tuple((n, norm(lane)) for n, lane in zip((8, 8, 8, 4), lanes, strict=True)), norm(mean)))
    expected = (weights * sigma**2).sum() / (weights * truth**2).sum()
    euclidean = (sigma**2).sum() / (truth**2).sum()
    found = scale.mean
    assert abs(found.inverse_scale - 1 / expected) < 4 * found.inverse_error
    assert found.inverse_scale > 20 / euclidean


def test_the_batch_doubles_where_that_costs_less_than_a_tenth() -> None:
    """``(1 + n/B) / (1 + 2n/B)`` of the progress per example is left: nine tenths at n = B/8."""
    assert cost_of_doubling(8, 1 / 64) == pytest.approx(0.1)
    assert cost_of_doubling(1, 1e9) == pytest.approx(0.5)
    assert cost_of_doubling(8, -1.0) == 0.0
    assert may_double(Noise(65.0, 1.0, 0.0, 0.0), 8) and not may_double(Noise(63.0, 1.0, 0.0, 0.0), 8)
    assert not may_double(Noise(100.0, 1.0, 0.0, 1 / 300), 8), "two standard errors away it costs more"
    assert may_double(Noise(100.0, 0.0, 0.0, 1e-3), 8)
    assert not may_double(Noise(1.0, 0.0, math.nan, math.nan), 8), "too few estimates"
    assert noise_of(OwnNorms(((8, 4.0),), 4.0)) is None

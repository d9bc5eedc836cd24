"""1/B, |G|² and |G| of a linear model whose gradient's covariance is known (Isserlis), near an optimum and far."""

from __future__ import annotations

import math

import numpy as np

from streamtrain.measure.diagnostics.noise_scale import Noise, NoiseScale
from streamtrain.values import LayerNorms, Norms
from tests.coverage.simulation import Row, interval, rate

DIMENSION, LANES, EXAMPLES = 20, 4, 8


def mean_noise(offset: float, estimates: int, generator: np.random.Generator) -> Noise:
    """After so many steps at θ* + δ, |δ| = ``offset``."""
    delta, scale = np.full(DIMENSION, offset / math.sqrt(DIMENSION)), NoiseScale()
    for _ in range(estimates):
        x = generator.standard_normal((LANES, EXAMPLES, DIMENSION))
        noise = generator.standard_normal((LANES, EXAMPLES))
        lanes = (x * (x @ delta - noise)[..., None]).mean(1)
        whole = float(np.square(lanes.mean(0)).sum())
        rows = tuple((EXAMPLES, float(lane @ lane)) for lane in lanes)
        found = scale.add(Norms(rows, {"a": LayerNorms(whole, 1.0, 1.0)}))
    assert found is not None
    return found


def at(offset: float, estimates: int, repetitions: int) -> list[Row]:
    """Of one distance from the optimum."""
    trace = (DIMENSION + 1) * offset**2 + DIMENSION
    found = [mean_noise(offset, estimates, np.random.default_rng(seed)) for seed in range(repetitions)]
    inverse = np.array([(each.inverse_scale, each.inverse_error) for each in found])
    squared = np.array([(each.squared_gradient, each.squared_error) for each in found])
    where = f"|G| = {offset:g}, {estimates} estimates"
    norms = np.array([each.gradient_norm for each in found])
    rows = [
        interval(f"1/B, {where}", offset**2 / trace, *inverse.T),
        interval(f"|G|², {where}", offset**2, *squared.T),
        interval(f"|G|, {where}", offset, *norms.T, or_more="a norm is not negative" if offset < 1 else ""),
    ]
    if not offset:
        rows.append(rate("a noise scale is shown", where, [each.scale != math.inf for each in found], at_most=0.05))
    return rows


def fast() -> list[Row]:
    """Away from the optimum and at it."""
    return [*at(1.0, 40, 150), *at(0.0, 40, 150)]


def slow() -> list[Row]:
    """More often, with fewer and more estimates."""
    return [row for offset in (1.0, 0.1, 0.0) for estimates in (15, 100) for row in at(offset, estimates, 400)]

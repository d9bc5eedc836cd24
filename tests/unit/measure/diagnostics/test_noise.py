"""Gradient noise against a linear model whose covariance is known in closed form, and against simulation."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from streamtrain.measure.diagnostics.batch_efficiency import efficiencies
from streamtrain.measure.diagnostics.noise_scale import Noise, NoiseScale, noise_of
from streamtrain.measure.diagnostics.standard_error import standard_errors
from streamtrain.values import LayerNorms, Norms

DIMENSION, OFFSET, LABEL_NOISE = 5, 1.5, 0.7
DELTA = np.full(DIMENSION, OFFSET / math.sqrt(DIMENSION))
"""θ − θ* of the linear model ``y = xᵀθ* + ε``, x ~ N(0, 1), with the loss ``(xᵀθ − y)²/2``."""
SQUARED_GRADIENT = OFFSET**2
TRACE = (DIMENSION + 1) * OFFSET**2 + DIMENSION * LABEL_NOISE**2
"""Of the covariance of ``g = x (xᵀδ − ε)``: ``E |g|² − |δ|²``, where ``E |g|² = (d + 2) |δ|² + d σ²`` (Isserlis)."""


def gradients(generator: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """One gradient an example, shape (*shape, dimension)."""
    x = generator.standard_normal((*shape, DIMENSION))
    return x * (x @ DELTA - LABEL_NOISE * generator.standard_normal(shape))[..., None]


def norms_of(lanes: list[NDArray[np.float64]]) -> Norms:
    """Of one step whose lanes have these gradients, shape (examples, dimension) each."""
    mean = np.concatenate(lanes).mean(0)
    parts = tuple((len(lane), float(np.square(lane.mean(0)).sum())) for lane in lanes)
    halves = {"a": mean[:2], "b": mean[2:]}
    return Norms(parts, {name: LayerNorms(float(np.square(g).sum()), 1.0, 0.01) for name, g in halves.items()})


@pytest.mark.parametrize("sizes", [(8, 8), (4, 4, 4, 4), (9, 2, 5), (1, 15)])
def test_both_estimates_are_unbiased_also_with_unequal_lanes(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        noise = noise_of(norms_of([gradients(generator, size) for size in sizes]))
        assert noise is not None
        found.append((noise.trace, noise.squared_gradient))
    for values, true in zip(np.array(found).T, (TRACE, SQUARED_GRADIENT), strict=True):
        assert abs(values.mean() - true) < 4 * values.std() / math.sqrt(len(values))


def test_noise_scale_of_a_problem_where_it_is_known() -> None:
    generator, scale = np.random.default_rng(1), NoiseScale()
    noises = [scale.add(norms_of([gradients(generator, 32) for _ in range(4)])) for _ in range(2000)]
    found = [noise.scale for noise in noises[500:] if noise is not None and noise.scale is not None]
    assert np.mean(found) == pytest.approx(TRACE / SQUARED_GRADIENT, rel=0.05)


def test_the_average_is_of_estimates_and_not_of_ratios() -> None:
    scale = NoiseScale()
    scale.add(Norms(((1, 4.0), (1, 4.0)), {"a": LayerNorms(3.0, 1.0, 1.0)}))  # S = 2, G² = 2
    noise = scale.add(Norms(((1, 9.0), (1, 9.0)), {"a": LayerNorms(5.0, 1.0, 1.0)}))  # S = 8, G² = 1
    assert noise is not None and noise.trace == pytest.approx((0.5 * 2 + 8) / 1.5)
    assert noise.scale is None, "two estimates have no error"
    assert noise.inverse_scale == pytest.approx((0.5 * 2 + 1) / (0.5 * 2 + 8))


def test_one_lane_tells_nothing_and_noise_alone_gives_no_scale() -> None:
    assert noise_of(Norms(((8, 4.0),), {"a": LayerNorms(4.0, 1.0, 1.0)})) is None
    drowned = Noise(trace=10.0, squared_gradient=-0.1)
    assert drowned.scale == math.inf and set(efficiencies(drowned, 8).values()) == {1.0}


@pytest.mark.parametrize("examples", [4, 16, 64])
def test_standard_error_is_the_spread_of_simulated_minibatches(examples: int) -> None:
    generator = np.random.default_rng(examples)
    means = gradients(generator, 3000, examples).mean(1)
    spread = np.sqrt(np.square(means - DELTA).sum(1).mean())
    deviation, error = standard_errors(Noise(TRACE, SQUARED_GRADIENT), examples)
    assert error == pytest.approx(spread, rel=0.05)
    assert deviation == pytest.approx(error * examples**0.5)


def test_efficiency_is_the_best_steps_progress_for_each_example() -> None:
    """On the quadratic |θ|²/2: the expected fall of the best step, by search, against that of the smallest batch."""

    def best_fall(examples: float) -> float:
        spread = SQUARED_GRADIENT + TRACE / examples
        return -float(minimize_scalar(lambda rate: -rate * SQUARED_GRADIENT + rate**2 / 2 * spread).fun)

    noise = Noise(TRACE, SQUARED_GRADIENT)
    limit = best_fall(1e-9) / 1e-9
    found = efficiencies(noise, 4)
    assert found.pop(1) == pytest.approx(best_fall(4) / 4 / limit, rel=1e-6)
    for factor, value in found.items():
        size = 4 * factor
        assert value == pytest.approx(best_fall(size) / size / limit, rel=1e-6)

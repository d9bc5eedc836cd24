"""Curvature, spectrum and points on functions whose answers are known, and against dense Hessians and scipy."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from streamtrain.landscape.curvature import LEVEL, curvature, kind_of_point, largest_step
from streamtrain.landscape.lanczos import Extremes, extremes

EIGENVALUES = torch.tensor([-2.0, 0.1, 0.5, 1.0, 3.0, 40.0], dtype=torch.float64)


def symmetric(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    )
    return rotation @ torch.diag(values) @ rotation.T


def test_all_of_a_small_spectrum_is_found() -> None:
    matrix = symmetric(EIGENVALUES)
    found = extremes(lambda v: matrix @ v, 6, tolerance=0.0)
    assert found.smallest == pytest.approx(-2.0) and found.largest == pytest.approx(40.0)
    assert max(found.smallest_residual, found.largest_residual) < 1e-8


def test_ends_of_a_large_spectrum_are_scipys_within_the_stated_residuals() -> None:
    values = torch.cat(
        [torch.linspace(-1, 1, 298, dtype=torch.float64), torch.tensor([-3.0, 9.0], dtype=torch.float64)]
    )
    matrix = symmetric(values, seed=1)
    products = 0

    def product(vector: torch.Tensor) -> torch.Tensor:
        nonlocal products
        products += 1
        return matrix @ vector

    found = extremes(product, 300, iterations=40, tolerance=1e-3)
    low, high = (float(scipy.sparse.linalg.eigsh(matrix.numpy(), 1, which=w)[0][0]) for w in ("SA", "LA"))
    assert abs(found.smallest - low) <= found.smallest_residual + 1e-9 < 0.01
    assert abs(found.largest - high) <= found.largest_residual + 1e-9 < 0.01
    assert products < 40


def test_a_quadratic_is_predicted_exactly() -> None:
    matrix, at = symmetric(EIGENVALUES.abs()), torch.ones(6, dtype=torch.float64)

    def loss(x: torch.Tensor) -> float:
        return float(x @ matrix @ x / 2)

    gradient = matrix @ at
    found = curvature(loss, at, gradient, matrix @ gradient, 0.01)
    assert found.squared_gradient == pytest.approx(float(gradient @ gradient))
    assert found.predicted == pytest.approx(found.measured, rel=1e-9)
    assert found.best_step is not None and found.largest_step is not None
    steps = np.linspace(0, 2 * found.best_step, 2001)
    assert steps[np.argmin([loss(at - s * gradient) for s in steps])] == pytest.approx(found.best_step, rel=1e-3)
    assert found.largest_step == pytest.approx(2 * found.best_step, rel=2e-3)


@pytest.mark.parametrize("first", [1e-3, 0.7, 50.0])
def test_largest_step_from_any_first_guess(first: float) -> None:
    assert largest_step(lambda s: (s - 1) ** 2, 1.0, first) == pytest.approx(2.0, rel=2e-3)


def test_steps_that_always_or_never_lower_the_loss() -> None:
    assert largest_step(lambda s: -s, 0.0, 0.1) is None
    assert largest_step(lambda s: s, 0.0, 0.1) == 0.0


@pytest.mark.parametrize("first", [0.1, 0.3, 0.4, 0.6, 0.9, 2.0])
def test_the_largest_step_does_not_jump_over_a_hill(first: float) -> None:
    """A line that rises above its start from 1.0 to 1.5, and falls again until 3."""

    def along(t: float) -> float:
        if t < 1:
            return -0.5 * math.sin(math.pi * t)
        return 0.3 * math.sin(math.pi * (t - 1) / 0.5) if t < 1.5 else abs(t - 2.25) / 0.75 - 1

    assert largest_step(along, 0.0, first) == pytest.approx(1.0, rel=2e-3)


@pytest.mark.parametrize(
    ("norm", "low", "high", "expected"),
    [
        (1.0, 1.0, 2.0, "slope"),
        (0.0, 0.5, 2.0, "minimum"),
        (0.0, -0.0005, 2.0, "minimum"),
        (0.0, -0.5, 2.0, "saddle"),
        (0.0, -2.0, -0.5, "maximum"),
        (0.0, -0.0005, 0.0005, "plateau"),
    ],
)
def test_kinds_of_points(norm: float, low: float, high: float, expected: str) -> None:
    assert kind_of_point(norm, Extremes(low, 0.0, high, 0.0)) == expected
    scaled = Extremes(1e-6 * low, 0.0, 1e-6 * high, 0.0)
    assert kind_of_point(1e-6 * norm, scaled, scale=1e-6) == expected, "the same surface in other units"


def test_an_end_that_is_not_known_well_decides_nothing() -> None:
    assert kind_of_point(0.0, Extremes(0.01, 0.001, 2.0, 0.1)) == "undecided"
    assert kind_of_point(0.0, Extremes(-2.0, 0.1, -0.01, 0.001)) == "undecided"
    assert kind_of_point(0.0, Extremes(-0.01, 0.1, 2.0, 0.1)) == "saddle"


def test_a_saddle_is_never_called_a_minimum() -> None:
    """One negative eigenvalue of a fiftieth of the largest one's size, among 200."""
    found_out = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(200, generator=generator, dtype=torch.float64)
        values[0], values[-1] = -0.02, 1.0
        matrix = symmetric(values, seed)
        few, many = (
            kind_of_point(0.0, extremes(lambda v, m=matrix: m @ v, 200, iterations=number, tolerance=LEVEL / 3))
            for number in (10, 100)
        )
        assert few in ("saddle", "undecided") and many in ("saddle", "undecided")
        found_out += many == "saddle"
    assert found_out >= 11


def test_lanczos_ends_where_the_vectors_run_out() -> None:
    found = extremes(lambda v: 3 * v, 50)
    assert found.smallest == found.largest == pytest.approx(3.0) and math.isclose(
        found.largest_residual, 0, abs_tol=1e-9
    )

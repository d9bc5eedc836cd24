"""Risks of data whose neighbours tell about one another: the spread between slices against what repeated sets show."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamtrain.measure.risk import pooled
from streamtrain.order import evaluation_slice
from streamtrain.values import Moments, Risk


def films(frames: int, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Losses of ``count`` films of so many frames; half of their variance is the film's own."""
    return (generator.normal(size=(count, 1)) + generator.normal(size=(count, frames))).ravel()


def slices(losses: NDArray[np.float64]) -> list[Risk]:
    cut = np.array_split(losses, -(-len(losses) // evaluation_slice(len(losses))))
    return [Risk(Moments.of(part), Moments.of(part)) for part in cut]


def test_the_spread_between_slices_is_that_of_repeated_sets() -> None:
    """Frames taken for independent say a third of it."""
    generator = np.random.default_rng(0)
    means, stated, independent = [], [], []
    for _ in range(400):
        risks = slices(films(20, 100, generator))
        means.append(pooled(risks).loss.mean)
        independent.append(pooled(risks).loss.standard_error)
        stated.append(pooled(risks, "unknown").loss.standard_error)
    assert np.mean(np.square(stated)) == pytest.approx(np.var(means), rel=0.25)
    assert np.mean(independent) < 0.4 * np.std(means)


def test_a_shuffled_order_that_is_not_known_to_be_one_loses_nothing() -> None:
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(200):
        risks = slices(generator.permutation(films(20, 100, generator)))
        ratios.append(pooled(risks, "unknown").loss.standard_error / pooled(risks).loss.standard_error)
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_few_slices_say_nothing_and_means_and_metrics_stay() -> None:
    risks = [
        Risk(Moments.of(np.arange(3.0) + n), Moments.of(np.arange(3.0)), {"own": Moments(3, n, 2.0)}) for n in (0, 1)
    ]
    plain, found = pooled(risks), pooled(risks, "unknown")
    assert {name: of.mean for name, of in found.quantities.items()} == {
        n: of.mean for n, of in plain.quantities.items()
    }
    assert math.isnan(found.loss.standard_error) and math.isnan(found.metrics["own"].standard_error)
    assert plain.loss.design_effect is None and math.isfinite(plain.loss.standard_error)
    assert found.out_of(6).loss.standard_error == 0  # all were looked at

"""Directions of gradients whose means and covariance are known, by the mean and the spread of repeated samples."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamtrain.measure.diagnostics.directions import Directions, Gram, directions
from streamtrain.measure.diagnostics.directions.way_to_end import MOST, WayToEnd

DIMENSION, EXAMPLES = 40, 16
EIGENVALUES = np.geomspace(1, 0.01, DIMENSION)
TRAINING, RISK = (np.eye(DIMENSION)[0] * 0.9, np.eye(DIMENSION)[0] * 0.72 + np.eye(DIMENSION)[1] * 0.54)


def sampled(
    generator: np.random.Generator, training: NDArray[np.float64], risk: NDArray[np.float64], bound: float | None = None
) -> Directions:
    """Sixteen minibatches and eight held-out groups; the cosine of the two gradients is 0.8."""
    minibatches = training + generator.normal(size=(16, DIMENSION)) * np.sqrt(EIGENVALUES / EXAMPLES)
    held_out = risk + generator.normal(size=(8, DIMENSION)) * np.sqrt(EIGENVALUES / 32)
    rows = np.vstack([minibatches, held_out])
    found = directions(Gram(rows @ rows.T, 16), bound)
    assert found is not None
    return found


def test_alignment_and_correlation_are_those_of_the_gradients() -> None:
    found = [sampled(np.random.default_rng(seed), TRAINING, RISK) for seed in range(400)]
    assert TRAINING @ RISK / np.linalg.norm(TRAINING) / np.linalg.norm(RISK) == pytest.approx(0.8)
    apart = float(np.square(TRAINING - RISK).sum())
    truths = {"alignment": 0.8, "correlation": apart / (apart + EIGENVALUES.sum() / EXAMPLES)}
    for name, truth in truths.items():
        values, errors = (np.array([getattr(each, key) for each in found]) for key in (name, f"{name}_error"))
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 20 + 0.02)
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.3)
        assert 0.58 < np.mean(np.abs(values - truth) <= errors) < 0.82


def test_new_examples_follow_the_risk_and_their_errors_do_not_correlate() -> None:
    found = [sampled(np.random.default_rng(seed), RISK, RISK) for seed in range(200)]
    assert np.mean([each.alignment for each in found]) == pytest.approx(1, abs=0.02)
    assert np.mean([each.correlation for each in found]) == pytest.approx(0, abs=0.02)


def test_the_effective_dimension_is_the_participation_ratio() -> None:
    truth = EIGENVALUES.sum() ** 2 / np.square(EIGENVALUES).sum()
    found = [sampled(np.random.default_rng(seed), TRAINING, RISK).effective_dimension for seed in range(400)]
    assert np.median(found) == pytest.approx(truth, rel=0.1)
    line = np.outer(np.arange(20.0) - 7, np.ones(3))
    one = directions(Gram(line @ line.T, 16), None)
    assert one is not None and one.effective_dimension == pytest.approx(1)


def test_what_clipping_does_is_what_it_does_to_very_many() -> None:
    generator, bound = np.random.default_rng(1), 0.8
    many = TRAINING + generator.normal(size=(200_000, DIMENSION)) * np.sqrt(EIGENVALUES / EXAMPLES)
    clipped = (many * np.minimum(1, bound / np.linalg.norm(many, axis=1))[:, None]).mean(0)
    kept = clipped @ TRAINING / (TRAINING @ TRAINING)
    cosine = clipped @ TRAINING / np.linalg.norm(clipped) / np.linalg.norm(TRAINING)
    found = [sampled(np.random.default_rng(seed), TRAINING, RISK, bound) for seed in range(300)]
    assert np.mean([each.clip_kept for each in found]) == pytest.approx(kept, abs=0.02)
    assert np.mean([each.clip_cosine for each in found]) == pytest.approx(cosine, abs=0.02)
    never = sampled(generator, TRAINING, RISK, 1e9)
    assert (never.clip_kept, never.clip_cosine) == pytest.approx((1, 1))
    assert sampled(generator, TRAINING, RISK).clip_kept is None


def test_what_is_not_known_is_not_said() -> None:
    noise = [sampled(np.random.default_rng(seed), 0 * TRAINING, 0 * RISK, 1.0) for seed in range(50)]
    unknown = [each for each in noise if math.isnan(each.alignment)]
    assert len(unknown) > 10 and "held_out_alignment" not in unknown[0].values
    assert directions(Gram(np.eye(8), 3), None) is None and directions(Gram(np.eye(8), 5), None) is None


def test_the_way_to_the_end() -> None:
    way = WayToEnd()
    way.add(3, np.array([-1.0, 0.0]), np.array([1.0, 1.0]))
    way.add(5, np.array([0.0, 2.0]), np.array([2.0, 2.0]))
    way.add(7, np.array([0.0, 0.0]), np.array([2.0, 2.0]))
    assert way.cosines(np.array([3.0, 3.0])) == pytest.approx({3: 0.5**0.5, 5: -(0.5**0.5)})
    for step in range(8, 40):
        way.add(step, np.array([-1.0, 0.0]), np.array([1.0, 1.0]))
    steps = list(way.cosines(np.array([2.0, 1.0])))
    assert len(steps) <= MOST and steps[0] == 3 and steps[-1] == 39 and steps == sorted(steps)

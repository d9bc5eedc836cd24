"""Progressive risk: its means by hand, and that of one pass, but not of many, against a risk known in closed form."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamtrain.measure.progressive import PassRisks, Progressive
from streamtrain.measure.progressive.fading import FadingMoments
from streamtrain.measure.run_curves import progressive_readings
from streamtrain.values import Moments, Update

DIMENSION, NOISE, BATCH, RATE = 4, 0.8, 5, 0.03


def update(step: int, losses: list[float] | NDArray[np.float64]) -> Update:
    moments = Moments.of(np.array(losses))
    return Update(step, moments, moments, 0.1, 1.0, 1.0)


def test_means_of_the_window_and_of_all() -> None:
    progressive = Progressive.over(5)
    full = [progressive.add(update(step, [step, step + 1.0])) for step in range(6)]
    assert progressive.total.loss.mean == pytest.approx(3.0) and progressive.total.loss.count == 12
    assert progressive.recent.loss.count == 6 and progressive.recent.loss.mean == pytest.approx(4.5)
    assert full == [False, False, True, False, True, False]
    readings = progressive_readings(progressive, 5, 0.0)
    assert len(readings) == 12
    assert (readings[0].name, readings[0].value, readings[0].step) == ("progressive/loss", pytest.approx(4.5), 4)


def test_a_fading_mean_is_numpys_with_the_weights_of_the_docstring() -> None:
    generator = np.random.default_rng(0)
    batches, keep = [generator.normal(size=n) for n in (3, 1, 7, 2)], [0.0, 0.9, 0.8, 0.95]
    moments, last, spread = FadingMoments(), Moments(), []
    for batch, kept in zip(batches, keep, strict=True):
        now = Moments.of(batch)
        moments = moments.after(now, kept, last)
        spread += [batch.var(ddof=1) if len(batch) > 1 else (now.mean - last.mean) ** 2 * 3 / 4] * len(batch)
        last = now
    weights = np.repeat([0.9 * 0.8 * 0.95, 0.8 * 0.95, 0.95, 1.0], [3, 1, 7, 2])
    values = np.concatenate(batches)
    assert moments.mean == pytest.approx(np.average(values, weights=weights))
    assert moments.standard_error == pytest.approx(math.sqrt((weights**2 * spread).sum()) / weights.sum())
    assert math.isnan(FadingMoments().after(Moments.of(np.array([1.0])), 1.0, Moments()).standard_error)


def test_fading_has_the_age_and_the_number_of_examples_of_the_window() -> None:
    progressive = Progressive.over(400)
    for step in range(2000):
        progressive.add(update(step, [4.0 * step, 4 * step + 1.0, 4 * step + 2.0, 4 * step + 3.0]))
    fading = progressive.fading.loss
    assert fading.mean == pytest.approx(progressive.recent.loss.mean, abs=3)  # of examples that count up: their age
    assert fading.weight**2 / fading.squared_weight == pytest.approx(400, rel=0.02)


def test_a_pass_ends_with_its_own_mean() -> None:
    passes = PassRisks()
    passes.add(update(0, [1.0, 2.0]))
    passes.add(update(1, [3.0]))
    assert passes.end().loss.mean == 2.0
    passes.add(update(2, [7.0]))
    assert passes.end().loss.mean == 7.0 and [risk.loss.mean for risk in passes.whole] == [2.0, 7.0]


def trained(seed: int, examples: int, passes: int) -> tuple[list[Update], NDArray[np.float64]]:
    """Linear regression by SGD on (xᵀθ − y)², from the optimum: updates, and the true risk before each.

    y = xᵀθ* + ε with x ~ N(0, 1) has the risk |θ − θ*|² + σ² in closed form.
    """
    generator = np.random.default_rng(seed)
    x, optimum = generator.normal(size=(examples, DIMENSION)), np.ones(DIMENSION)
    y = x @ optimum + NOISE * generator.normal(size=examples)
    theta, updates, risks = optimum.copy(), [], []
    for step in range(passes * examples // BATCH):
        rows = np.arange(step * BATCH, (step + 1) * BATCH) % examples
        residuals = x[rows] @ theta - y[rows]
        updates.append(update(step, residuals**2))
        risks.append(float(((theta - optimum) ** 2).sum()) + NOISE**2)
        theta -= RATE * 2 * (residuals[:, None] * x[rows]).mean(0)
    return updates, np.array(risks)


def test_promise_of_one_pass_the_progressive_risk_is_the_held_out_risk_within_its_stated_standard_error() -> None:
    scores: dict[str, list[float]] = {"total": [], "window": [], "fading": []}
    for seed in range(600):
        updates, risks = trained(seed, 300, passes=1)
        progressive = Progressive.over(100)
        for each in updates:
            progressive.add(each)
        weights = np.exp(-2 * BATCH / 100) ** np.arange(len(risks))[::-1]
        total, recent, fading = progressive.total.loss, progressive.recent.loss, progressive.fading.loss
        scores["total"].append((total.mean - risks.mean()) / total.standard_error)
        scores["window"].append((recent.mean - risks[-20:].mean()) / recent.standard_error)
        scores["fading"].append((fading.mean - np.average(risks, weights=weights)) / fading.standard_error)
    for name, found in scores.items():
        # of a skewed loss (χ²), the score of a mean of 100 has a mean of −0.14 and a deviation a little above 1
        assert abs(np.mean(found)) < 0.25, name
        assert np.std(found) == pytest.approx(1.0, abs=0.17), name


def test_promise_only_the_first_of_many_passes_is_unbiased() -> None:
    differences = np.zeros((300, 3))
    for seed in range(len(differences)):
        updates, risks = trained(seed, 30, passes=3)
        passes = PassRisks()
        for each in updates:
            passes.add(each)
            if (each.step + 1) % 6 == 0:
                passes.end()
        differences[seed] = [risk.loss.mean for risk in passes.whole] - risks.reshape(3, 6).mean(1)
    scores = differences.mean(0) / (differences.std(0) / math.sqrt(len(differences)))
    assert abs(scores[0]) < 3 and scores[1] < -4 and scores[2] < -4

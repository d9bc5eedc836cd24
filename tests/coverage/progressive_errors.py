"""Errors of the progressive means while the risk falls steeply, against the risk on the way, known in closed form."""

from __future__ import annotations

import numpy as np

from streamtrain.measure.progressive import Progressive
from streamtrain.values import Moments, Update
from tests.coverage.simulation import Row, interval

WINDOW, DIMENSION, NOISE = 2000, 10, 0.5


def falling(batch: int, rate: float, repetitions: int) -> list[Row]:
    """SGD on (xᵀθ)² with label noise from |θ| = 5: of all, of the last window, and fading."""
    examples = 4000
    steps = examples // batch
    truths: dict[str, list[float]] = {"total": [], "window": [], "fading": []}
    means: dict[str, list[tuple[float, float]]] = {name: [] for name in truths}
    weights = np.exp(-2 * batch / WINDOW) ** np.arange(steps)[::-1]
    for seed in range(repetitions):
        generator, theta = np.random.default_rng(seed), np.zeros(DIMENSION)
        theta[0] = 5.0
        progressive, risks = Progressive.over(WINDOW), []
        for step in range(steps):
            x = generator.normal(size=(batch, DIMENSION))
            residuals = x @ theta - NOISE * generator.normal(size=batch)
            risks.append(float(theta @ theta) + NOISE**2)
            moments = Moments.of(residuals**2)
            progressive.add(Update(step, moments, moments, rate, 1.0, 1.0))
            theta = theta - 2 * rate * (residuals[:, None] * x).mean(0)
        last = -(-WINDOW // batch)
        found = {"total": progressive.total.loss, "window": progressive.recent.loss, "fading": progressive.fading.loss}
        right = {
            "total": np.mean(risks),
            "window": np.mean(risks[-last:]),
            "fading": np.average(risks, weights=weights),
        }
        for name, each in found.items():
            truths[name].append(float(right[name]))
            means[name].append((each.mean, each.standard_error))
    kind = f"progressive risk, minibatches of {batch}"
    return [interval(f"{kind}, {name}", truths[name], *np.array(means[name]).T) for name in truths]


def fast() -> list[Row]:
    """One batch size."""
    return falling(64, 0.03, 150)


def slow() -> list[Row]:
    """Others, that of one example too, whose spread is that between neighbours."""
    return [row for batch, rate in ((1, 0.0005), (8, 0.004), (64, 0.03)) for row in falling(batch, rate, 400)]

"""Alignment with the held-out gradient and correlation of subsequent estimates, where all gradients are known."""

from __future__ import annotations

import numpy as np

from streamtrain.measure.diagnostics.directions import Gram, directions
from tests.coverage.simulation import Row, interval

DIMENSION, MINIBATCH, GROUP = 40, 16, 32
EIGENVALUES = np.geomspace(1, 0.01, DIMENSION)
"""Of one example's covariance."""


def at(norm: float, cosine: float, minibatches: int, repetitions: int) -> list[Row]:
    """Of two gradients of such a norm and angle."""
    training = np.zeros(DIMENSION)
    training[0] = norm
    risk = np.zeros(DIMENSION)
    risk[:2] = norm * cosine, norm * np.sqrt(1 - cosine**2)
    found = []
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        own = training + generator.normal(size=(minibatches, DIMENSION)) * np.sqrt(EIGENVALUES / MINIBATCH)
        held_out = risk + generator.normal(size=(8, DIMENSION)) * np.sqrt(EIGENVALUES / GROUP)
        rows = np.vstack([own, held_out])
        each = directions(Gram(rows @ rows.T, minibatches), None)
        assert each is not None
        found.append((each.alignment, each.alignment_error, each.correlation, each.correlation_error))
    apart = float(np.square(training - risk).sum())
    correlation = apart / (apart + EIGENVALUES.sum() / MINIBATCH)
    values = np.array(found).T
    where = f"{minibatches} minibatches"
    why = "the jackknife is wide where minibatches are few, or the two directions the same"
    return [
        interval(f"alignment with the held-out gradient, {where}", cosine, values[0], values[1], or_more=why),
        interval(f"correlation of subsequent gradients, {where}", correlation, values[2], values[3], or_more=why),
    ]


def fast() -> list[Row]:
    """One."""
    return at(0.9, 0.8, 16, 150)


def slow() -> list[Row]:
    """Of few minibatches and more, of one direction and others."""
    return [row for cosine in (1.0, 0.8, 0.2) for minibatches in (6, 16) for row in at(0.9, cosine, minibatches, 400)]

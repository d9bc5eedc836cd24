"""Correlation of the errors of two subsequent gradient estimates, about the gradient of the held-out risk.

``E (g₁ − H)ᵀ(g₂ − H) / E |g − H|²``: 0 where subsequent minibatches are independent and new, as two such estimates
should be (Deep Learning, 8.1.3). Those of sorted data correlate; so do those of examples that come again, all of whose
gradients are off from H by the same.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.measure.diagnostics.directions.gram import Gram, between, jackknife


def correlation(gram: Gram) -> tuple[float, float]:
    """It and its standard error; every product is of two that share no example, but for the variance's."""
    value = _correlation(gram)
    return value, jackknife(_correlation, gram) if math.isfinite(value) else math.nan


def _correlation(gram: Gram) -> float:
    squared = between(gram.held_out)
    mixed = float(gram.mixed.mean())
    next_to = float(np.diagonal(gram.training, 1).mean())
    covariance = next_to - 2 * mixed + squared
    variance = float(np.trace(gram.training)) / gram.minibatches - 2 * mixed + squared
    return covariance / variance if variance > 0 else math.nan

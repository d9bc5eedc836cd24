"""Efficiency of a batch size: progress for each example, against that of a very small minibatch.

``1 / (1 + n/B)`` with B the gradient noise scale: to reach the same loss takes ``E = E_min (1 + n/B)`` examples
(McCandlish et al. 2018, equations 2.7 and 5.1). At n = B half of the examples are spent for fewer steps. A model
of the noise alone: it knows neither curvature nor what the machine does faster.
"""

from __future__ import annotations

import math

from streamtrain.measure.diagnostics.noise_scale import Noise

FACTORS = (1, 2, 4, 8)


def efficiencies(noise: Noise, examples: int) -> dict[int, float]:
    """By factor: at the present batch size, and at 2, 4, 8 times it; 1 where no gradient is told from the noise."""
    inverse = noise.inverse_scale
    if math.isnan(inverse):
        return {}
    return {factor: 1 / (1 + factor * examples * max(inverse, 0.0)) for factor in FACTORS}

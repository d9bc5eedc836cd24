"""Efficiency of a batch size: progress for each example, against that of a very small minibatch.

``1 / (1 + n/B)`` with B the gradient noise scale: to reach the same loss takes ``E = E_min (1 + n/B)`` examples
(McCandlish et al. 2018, equations 2.7 and 5.1). At n = B half of the examples are spent for fewer steps. A model
of the noise alone: it knows neither curvature nor what the machine does faster.
"""

from __future__ import annotations

import math

from streamtrain.measure.diagnostics.noise_scale import CLEARLY, Noise

FACTORS = (1, 2, 4, 8)
MOST_COST = 0.1
"""Of the progress per example, that twice the batch may cost."""


def efficiencies(noise: Noise, examples: int) -> dict[int, float]:
    """By factor: at the present batch size, and at 2, 4, 8 times it; 1 where no gradient is told from the noise."""
    inverse = noise.inverse_scale
    if math.isnan(inverse):
        return {}
    return {factor: 1 / (1 + factor * examples * max(inverse, 0.0)) for factor in FACTORS}


def cost_of_doubling(examples: int, inverse_scale: float) -> float:
    """The part of the progress per example that minibatches twice as large as ``examples`` cost.

    ``1 − (1 + n/B) / (1 + 2n/B)``: 0 where n is far below B, a half where it is far above.
    """
    ratio = max(examples * inverse_scale, 0.0)
    return ratio / (1 + 2 * ratio)


def may_double(noise: Noise, examples: int) -> bool:
    """Whether twice the batch costs less than `MOST_COST`, also where 1/B is two standard errors higher than found."""
    highest = noise.inverse_scale + CLEARLY * noise.inverse_error
    return math.isfinite(highest) and cost_of_doubling(examples, highest) < MOST_COST

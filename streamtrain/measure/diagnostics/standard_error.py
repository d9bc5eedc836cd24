"""Standard error of the minibatch's gradient: ``σ/√n`` (Deep Learning, 8.1.3 and equation 5.46).

σ² is here the trace of one example's gradient covariance, so that ``σ/√n`` is the root mean squared Euclidean
distance of the minibatch's gradient from the risk's. Four times the examples halve it, and cost four times as much.
"""

from __future__ import annotations

import math

from streamtrain.measure.diagnostics.noise_scale import Noise


def standard_errors(noise: Noise, examples: int) -> tuple[float, float]:
    """σ of one example's gradient, and the standard error of the mean over ``examples``."""
    sigma = math.sqrt(max(noise.trace, 0.0))
    return sigma, sigma / math.sqrt(examples)

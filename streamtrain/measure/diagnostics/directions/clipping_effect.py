"""What clipping by norm does to the expected gradient (Deep Learning, 10.11.1: it introduces a bias).

With ``s = min(1, bound/|g|)`` of each minibatch, ``E s g`` is compared with ``G = E g``: how much of G it keeps,
``(E s g)ᵀG / |G|²``, and the cosine of the angle between them. Products are of different minibatches only.
"""

from __future__ import annotations

import math

import numpy as np

from streamtrain.measure.diagnostics.directions.gram import Gram, between


def clipping_effect(gram: Gram, bound: float) -> tuple[float, float]:
    """The part that is kept, and the cosine; NaN where the gradient is not told from the noise."""
    norms = np.sqrt(np.diagonal(gram.training))
    scales = np.minimum(1.0, bound / np.maximum(norms, 1e-300))
    plain = between(gram.training)
    mixed = between((scales[:, None] + scales[None, :]) / 2 * gram.training)
    clipped = between(np.outer(scales, scales) * gram.training)
    if min(plain, clipped) <= 0:
        return math.nan, math.nan
    return mixed / plain, mixed / math.sqrt(plain * clipped)

"""Cosine of the angle between what updates follow and the gradient of the held-out risk.

``Gᵀ H / (|G| |H|)``, each part without the minibatches' noise (see `gram`). In the first pass minibatches are new
examples, so G = H but for the noise, and the cosine is 1: "only the first pass follows the gradient of the
generalization error" (Deep Learning, 8.1.3). Later they come again, and the angle opens.
"""

from __future__ import annotations

import math

from streamtrain.measure.diagnostics.directions.gram import Gram, between, jackknife


def alignment(gram: Gram) -> tuple[float, float]:
    """The cosine and its standard error; NaN where a gradient is not told from the noise."""
    cosine = _cosine(gram)
    return cosine, jackknife(_cosine, gram) if math.isfinite(cosine) else math.nan


def _cosine(gram: Gram) -> float:
    squared = between(gram.training), between(gram.held_out)
    return float(gram.mixed.mean()) / math.sqrt(squared[0] * squared[1]) if min(squared) > 0 else math.nan

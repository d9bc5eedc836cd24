"""Update-to-parameter ratio: ``|θ' − θ| / |θ|`` of a step. Around 1e-3 is usual; far from it, the rate is suspect."""

from __future__ import annotations

import math

from streamtrain.values import LayerNorms


def update_ratio(norms: LayerNorms) -> float | None:
    """Of all parameters together; ``None`` where all are zero."""
    return math.sqrt(norms.update / norms.parameters) if norms.parameters else None

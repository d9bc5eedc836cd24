"""Which way gradients point: of the minibatches that come next, against each other and the held-out risk's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.measure.diagnostics.directions.alignment import alignment
from streamtrain.measure.diagnostics.directions.clipping_effect import clipping_effect
from streamtrain.measure.diagnostics.directions.correlation import correlation
from streamtrain.measure.diagnostics.directions.effective_dimension import effective_dimension
from streamtrain.measure.diagnostics.directions.gram import Gram

__all__ = ["Directions", "Gram", "directions"]


@dataclass(frozen=True)
class Directions:
    """At one place; ``clip_kept`` and ``clip_cosine`` only where minibatches were whole and are clipped."""

    alignment: float
    alignment_error: float
    correlation: float
    correlation_error: float
    effective_dimension: float
    clip_kept: float | None = None
    clip_cosine: float | None = None

    @property
    def values(self) -> dict[str, float]:
        """Those that are known, by the names of their curves."""
        named = {
            "held_out_alignment": self.alignment,
            "held_out_alignment_standard_error": self.alignment_error,
            "subsequent_correlation": self.correlation,
            "subsequent_correlation_standard_error": self.correlation_error,
            "effective_dimension": self.effective_dimension,
            "clipping_keeps": self.clip_kept,
            "clipping_cosine": self.clip_cosine,
        }
        return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


def directions(gram: Gram, bound: float | None) -> Directions | None:
    """All of them; ``None`` of too few minibatches or groups.

    Args:
        bound: of the norm that minibatches are clipped to; ``None`` where they are not, or these are no whole ones.
    """
    if not gram.says_enough:
        return None
    clipping = (None, None) if bound is None else clipping_effect(gram, bound)
    return Directions(*alignment(gram), *correlation(gram), effective_dimension(gram), *clipping)

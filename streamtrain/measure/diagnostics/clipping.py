"""Clipping by norm: how often it acts, and how much of the gradient it takes away (Deep Learning, 10.11.1)."""

from __future__ import annotations

from collections.abc import Sequence

from streamtrain.values import Update


def clipping(updates: Sequence[Update]) -> dict[str, float]:
    """Fraction of steps that were clipped, and the part of the gradient's norm that was cut off, mean over the steps.

    The cut of a step is ``1 − min(1, bound/|g|)``; 0 where nothing was clipped.
    """
    return {
        "gradient/clipped_fraction": sum(u.clip_scale < 1 for u in updates) / len(updates),
        "gradient/cut": sum(1 - u.clip_scale for u in updates) / len(updates),
    }

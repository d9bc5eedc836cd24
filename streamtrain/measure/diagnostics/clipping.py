"""Clipping by norm: how often it acts, and how much of the gradient it takes away (Deep Learning, 10.11.1)."""

from __future__ import annotations

from collections.abc import Sequence

from streamtrain.values import Update


def clipping(updates: Sequence[Update]) -> tuple[float, float]:
    """Fraction of steps that were clipped, and the part of the gradient's norm that was cut off, mean over the steps.

    The cut of a step is ``1 − min(1, bound/|g|)``; 0 where nothing was clipped.
    """
    clipped = sum(u.clip_scale < 1 for u in updates) / len(updates)
    return clipped, sum(1 - u.clip_scale for u in updates) / len(updates)

"""Clipping of the mean gradient: elementwise by value, then as a whole by norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def clip_value_(gradient: torch.Tensor, bound: float) -> torch.Tensor:
    """Clamps every element to ``±bound`` in place (`torch.nn.utils.clip_grad_value_`)."""
    return gradient.clamp_(-bound, bound)


def squared_norm(chunk: torch.Tensor) -> float:
    """Sum of squares; accumulated in the chunk's own type within the chunk (float64 costs four times as much)."""
    return float(torch.linalg.vector_norm(chunk)) ** 2


def norm_of(squared_norms: Iterable[float]) -> float:
    """Norm of the whole out of its chunks' squared norms, added exactly (`math.fsum`), so in any order."""
    terms = list(squared_norms)
    return math.sqrt(math.fsum(terms)) if all(map(math.isfinite, terms)) else math.nan


def clip_scale(norm: float, bound: float | None) -> float:
    """Factor that brings ``norm`` to at most ``bound`` (Deep Learning, equation 10.49).

    In `torch.nn.utils.clip_grad_norm_`'s form: ``min(1, bound / (norm + 1e-6))``.
    """
    return 1.0 if bound is None else min(1.0, bound / (norm + 1e-6))

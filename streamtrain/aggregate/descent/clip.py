"""Clipping of the mean gradient: elementwise by value, by unit (adaptive), then as a whole by norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

ADAPTIVE_FLOOR = 1e-3
"""Norm that a unit's weights count as at least, so that new zero weights can move (Brock et al. 2021, ε)."""


def clip_value_(gradient: torch.Tensor, bound: float) -> torch.Tensor:
    """Clamps every element to ``±bound`` in place (`torch.nn.utils.clip_grad_value_`)."""
    return gradient.clamp_(-bound, bound)


def clip_adaptive_(gradient: torch.Tensor, weights: torch.Tensor, unit: int, factor: float) -> torch.Tensor:
    """Adaptive gradient clipping in place (Brock, De, Smith & Simonyan 2021, equation 3).

    Every run of ``unit`` elements (one output's weights; a whole bias) is scaled to a norm of at most
    ``factor · max(‖w‖, 10⁻³)``.
    """
    rows = gradient.view(-1, unit)
    most = torch.linalg.vector_norm(weights.view(-1, unit), dim=1).clamp_(min=ADAPTIVE_FLOOR).mul_(factor)
    found = torch.linalg.vector_norm(rows, dim=1)
    scale = torch.where(found > most, most / found.clamp(min=1e-6), 1.0)
    rows.mul_(scale.unsqueeze(1))
    return gradient


def squared_norm(chunk: torch.Tensor) -> float:
    """Sum of squares; accumulated in the chunk's own type within the chunk (float64 costs four times as much)."""
    return float(torch.dot(chunk, chunk))


def norm_of(squared_norms: Iterable[float]) -> float:
    """Norm of the whole out of its pieces' squared norms, added exactly (`math.fsum`), so in any order."""
    terms = list(squared_norms)
    return math.sqrt(math.fsum(terms)) if all(map(math.isfinite, terms)) else math.nan


def clip_scale(norm: float, bound: float | None) -> float:
    """Factor that brings ``norm`` to at most ``bound`` (Deep Learning, equation 10.49).

    In `torch.nn.utils.clip_grad_norm_`'s form: ``min(1, bound / (norm + 1e-6))``.
    """
    return 1.0 if bound is None else min(1.0, bound / (norm + 1e-6))

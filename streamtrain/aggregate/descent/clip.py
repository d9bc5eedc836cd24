"""Clipping of the mean gradient: elementwise by value, by unit (adaptive), then as a whole by norm.

The same lines serve the host, where norms are floats, and a device, where they are tensors that nobody waits for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from streamtrain.aggregate.descent.decision import Number
from streamtrain.aggregate.descent.rules import Block
from streamtrain.aggregate.state import State

Norms = Any
"""Squared norms of all pieces: an array on the host, a tensor on a device."""

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
    # In float64: the squares of large float32 numbers overflow in their own type.
    weight_norms = torch.linalg.vector_norm(weights.view(-1, unit), dim=1, dtype=torch.float64)
    most = weight_norms.clamp_(min=ADAPTIVE_FLOOR).mul_(factor)
    found = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    scale = torch.where(found > most, most / found.clamp(min=1e-6), 1.0)
    rows.mul_(scale.to(rows.dtype).unsqueeze(1))
    return gradient


def squared_norm(chunk: torch.Tensor) -> float:
    """Sum of squares; accumulated in the chunk's own type within the chunk (float64 costs four times as much).

    In float64 where that overflows: the square of any float32 is finite in it.
    """
    found = float(torch.dot(chunk, chunk))
    if math.isinf(found) and chunk.dtype != torch.float64:
        whole = chunk.double()
        found = float(torch.dot(whole, whole))
    return found


def norm_of(squared_norms: Iterable[float]) -> float:
    """Norm of the whole out of its pieces' squared norms, added exactly (`math.fsum`), so in any order."""
    terms = list(squared_norms)
    return math.sqrt(math.fsum(terms)) if all(map(math.isfinite, terms)) else math.nan


def clip_block(
    block: Block, mean: torch.Tensor, old: State, norms: Norms, squared_norms: Callable[[Block, torch.Tensor], Any]
) -> None:
    """Clips the mean gradient of a block by value and by unit.

    Args:
        mean: changed in place.
        norms: all pieces' squared norms before and after it, piece by piece; the block's are written.
        squared_norms: takes those of a block's pieces.
    """
    rule = block.rule
    first = 2 * block.first
    end = 2 * (block.first + len(block.pieces))
    before = after = squared_norms(block, mean)
    if rule.clip.value is not None:
        clip_value_(mean, rule.clip.value)
    if rule.clip.adaptive is not None:
        clip_adaptive_(mean, old.parameters[block.place], block.pieces[0].unit, rule.clip.adaptive)
    if rule.clip.value is not None or rule.clip.adaptive is not None:
        after = squared_norms(block, mean)
    norms[first:end:2] = before
    norms[first + 1 : end : 2] = after


def clip_scales(
    bounds: Mapping[int, float | None], norm_of_group: Callable[[int], Number], unscaled: Number
) -> tuple[Number, ...]:
    """The factor that clipping by norm applies to each group, by the `Rule`'s ``clipped_with``.

    Args:
        bounds: of every group's norm.
        norm_of_group: the norm of what is clipped together.
        unscaled: a factor of 1.
    """
    scales = [unscaled] * (1 + max(bounds))
    for group, bound in bounds.items():
        if bound is not None:
            scales[group] = clip_scale(norm_of_group(group), bound)
    return tuple(scales)


def clip_scale(norm: Number, bound: float) -> Number:
    """Factor that brings ``norm`` to at most ``bound`` (Deep Learning, equation 10.49).

    In `torch.nn.utils.clip_grad_norm_`'s form: ``min(1, bound / (norm + 1e-6))``.
    """
    scale = bound / (norm + 1e-6)
    return scale.clamp(max=1.0) if isinstance(scale, torch.Tensor) else min(1.0, scale)

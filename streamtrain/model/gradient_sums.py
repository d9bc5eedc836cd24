"""Sums of autograd's gradients, which may be none, sparse or expanded: never in place."""

from __future__ import annotations

import torch


def densify(gradient: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient as slots take it: that of an embedding may be sparse."""
    return gradient if gradient is None or gradient.layout == torch.strided else gradient.to_dense()


def add_up(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Sum of two gradients; ``None`` is none. Not in place: autograd may give expanded tensors."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def add_into(one: torch.Tensor | None, other: torch.Tensor | None, out: torch.Tensor) -> None:
    """Sum of two gradients; ``None`` is zeros, so no -0 is left."""
    if one is None or other is None:
        given = other if one is None else one
        out.zero_() if given is None else torch.add(given, 0.0, out=out)
    else:
        torch.add(one, other, out=out)

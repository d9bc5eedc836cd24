"""A loss, an error or a metric whose mean is over weights: tokens, pixels, sample weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamtrain.errors import JobError, complaint

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weighted:
    """Two numbers of each example, whose mean is ``Σ sums / Σ weights`` over all examples.

    A loss's gradient is ``Σ ∇sums / Σ weights`` over the whole minibatch, whatever the lanes, pieces and workers. The
    mean of all tokens: the sum over each sequence's, and how many they are. With sample weights: weight times loss, and
    the weight.

    Attributes:
        sums: shape (examples,).
        weights: shape (examples,), none negative; no gradient goes through them.
    """

    sums: torch.Tensor
    weights: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("sums", "weights"):
            value = getattr(self, name)
            if not hasattr(value, "detach"):
                do = "give a tensor of shape (examples,), e.g. mask.sum(1)"
                where = f"st.Weighted, {name}"
                raise JobError(complaint(where, expected="a tensor", found=type(value).__name__, do=do))
        if self.sums.shape != self.weights.shape:
            found = f"{tuple(self.sums.shape)} and {tuple(self.weights.shape)}"
            do = "give each example one sum and one weight"
            raise JobError(complaint("st.Weighted", expected="sums and weights of one shape", found=found, do=do))

    def detach(self) -> Weighted:
        """The same without a graph."""
        return Weighted(self.sums.detach(), self.weights.detach())


if TYPE_CHECKING:
    Value = torch.Tensor | Weighted
else:  # a job is declared without importing torch
    Value = object

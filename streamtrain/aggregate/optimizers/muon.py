"""Muon (Jordan et al. 2024): the momentum of each matrix, made orthogonal by a few products of matrices.

As `torch.optim.Muon`, with these differences: the products are in the parameters' own type, not in bfloat16; weights of
more than two axes are seen as matrices of one row an output; nothing decays unless told; and what is no matrix is moved
by AdamW in the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.optimizers.adamw import AdamW
from streamtrain.aggregate.optimizers.sgd import MOMENTUM
from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require, require_count, require_finite, require_part
from streamtrain.job.update.optimizer import Optimizer

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic that is applied to the singular values: of all, about the steepest at 0."""
LEAST_NORM = 1e-7


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for matrices, AdamW for everything else. One vector for matrices, two for the rest."""

    lr: float = 0.02
    """Learning rate of the matrices."""
    momentum: float = 0.95
    """Decay of the gradient's running mean."""
    nesterov: bool = True
    """Nesterov's variant of momentum."""
    ns_steps: int = 5
    """Newton-Schulz iterations."""
    weight_decay: float = 0.0
    """The part of the learning rate by which matrices shrink in each update."""
    adjust: Literal["original", "match_rms_adamw"] = "original"
    """Factor of the rate by a matrix's shape: the root of rows over columns, at least 1; or 0.2 times the root of the
    larger of them, so that AdamW's rate and decay fit (Liu et al. 2025)."""
    others: tuple[str, ...] = ()
    """Patterns of names of matrices that `adamw` moves: embeddings, the last layer."""
    adamw: AdamW = field(default_factory=lambda: AdamW(lr=3e-4, weight_decay=0.0))
    """What moves all parameters that are no matrices, and `others`."""

    together: ClassVar[Literal["elements", "parameter", "model"]] = "parameter"
    scaling: ClassVar[Literal["linear", "root"]] = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_part("optimizer.momentum", self.momentum)
        require_count("optimizer.ns_steps", self.ns_steps)
        require_finite("optimizer.weight_decay", self.weight_decay, positive=False)
        kinds = ("original", "match_rms_adamw")
        require(self.adjust in kinds, "optimizer.adjust", " or ".join(kinds), self.adjust, "choose one of them")
        adamw = isinstance(self.adamw, AdamW)
        require(adamw, "optimizer.adamw", "st.AdamW(…)", self.adamw, "declare it, e.g. st.AdamW(lr=3e-4)")

    def parts(self) -> tuple[Optimizer, ...]:
        """Itself, and AdamW."""
        return (self, self.adamw)

    def of(self, name: str, shape: tuple[int, ...]) -> Optimizer:
        """Itself for matrices."""
        is_matrix = len(shape) > 1 and not any(fnmatchcase(name, pattern) for pattern in self.others)
        return self if is_matrix else self.adamw

    def vectors(self) -> tuple[str, ...]:
        """The momentum."""
        return (MOMENTUM,)

    def counts_updates(self) -> bool:
        """Nothing is corrected for the start."""
        return False

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,  # noqa: ARG002  # of the contract
    ) -> None:
        """``m ← βm + (1-β)g``, ``θ ← (1 - ελ)θ - ε·a·orthogonal(m)`` with ``a`` by shape, and Nesterov's variant."""
        velocity = torch.lerp(old[MOMENTUM], gradient, 1 - self.momentum)
        new[MOMENTUM].copy_(velocity)
        direction = torch.lerp(gradient, velocity, self.momentum) if self.nesterov else velocity
        matrix = orthogonalize(direction.flatten(1), self.ns_steps)
        rows, columns = matrix.shape
        size = max(1, rows / columns) ** 0.5 if self.adjust == "original" else 0.2 * max(rows, columns) ** 0.5
        shrunk = old[PARAMETERS] * (1 - rate * self.weight_decay)
        new[PARAMETERS].copy_(shrunk.add_(matrix.view(direction.shape), alpha=-rate * size))


def orthogonalize(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """About ``UVᵀ`` of a matrix ``USVᵀ``: ``X ← aX + (bA + cA²)X`` with ``A = XXᵀ``, from ``X`` of norm 1.

    The coefficients trade exactness for few steps: singular values end between about 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if is_tall else matrix
    found = found / torch.linalg.vector_norm(found).clamp(min=LEAST_NORM)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if is_tall else found).contiguous()

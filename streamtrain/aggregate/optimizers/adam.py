"""Adam (Kingma & Ba 2015), in `torch.optim.Adam`'s semantics, AMSGrad's variant included (Reddi et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require_betas, require_finite
from streamtrain.job.update.optimizer import Optimizer

MEAN, SQUARE, LARGEST = "exp_avg", "exp_avg_sq", "max_exp_avg_sq"


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, in `torch.optim.Adam`'s semantics: weight decay is an L2 penalty, part of the gradient."""

    lr: float = 1e-3
    """Learning rate ε."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the gradient's running mean, and of its square's."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""
    amsgrad: bool = False
    """Divide by the root of the largest mean square so far, not of the last."""

    scaling: ClassVar[Literal["linear", "root"]] = "root"
    has_norm: ClassVar[bool] = True
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_betas("optimizer.betas", self.betas)
        require_finite("optimizer.eps", self.eps, positive=True)
        require_finite("optimizer.weight_decay", self.weight_decay, positive=False)

    def vectors(self) -> tuple[str, ...]:
        """The running means, and the largest of the second."""
        return (MEAN, SQUARE, LARGEST) if self.amsgrad else (MEAN, SQUARE)

    def norm_weights(self, old: Mapping[str, torch.Tensor], updates: int | torch.Tensor) -> torch.Tensor:
        """``1 / (√v̂ + eps)``."""
        root = (1 - self.betas[1] ** updates) ** 0.5
        return inverse_root(old[LARGEST if self.amsgrad else SQUARE], self.eps * root) * root

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """``m ← β₁m + (1-β₁)g``, ``v ← β₂v + (1-β₂)g²``, ``θ ← θ - ε·m̂ / (√v̂ + eps)``.

        Both corrections for the start at 0 go into the rate and eps, which is a trip through memory less than into v̂.
        """
        beta1, beta2 = self.betas
        if self.weight_decay and not self.decoupled:
            gradient.add_(old[PARAMETERS], alpha=self.weight_decay)
        torch.lerp(old[MEAN], gradient, 1 - beta1, out=new[MEAN])
        torch.mul(old[SQUARE], beta2, out=new[SQUARE]).addcmul_(gradient, gradient, value=1 - beta2)
        square = new[SQUARE]
        if self.amsgrad:
            square = torch.maximum(old[LARGEST], square, out=new[LARGEST])
        count = updates + 1
        root = (1 - beta2**count) ** 0.5
        size = torch.sqrt(square, out=gradient).add_(self.eps * root)
        before = old[PARAMETERS]
        if self.weight_decay and self.decoupled:
            before = torch.mul(before, 1 - rate * self.weight_decay, out=new[PARAMETERS])
        step = rate * root / (1 - beta1**count)
        if isinstance(step, torch.Tensor):
            torch.sub(before, new[MEAN] / size * step, out=new[PARAMETERS])
        else:
            torch.addcdiv(before, new[MEAN], size, value=-step, out=new[PARAMETERS])


def inverse_root(square: torch.Tensor, eps: float | torch.Tensor) -> torch.Tensor:
    """``1 / (√square + eps)``, and 0 where nothing was squared yet."""
    return torch.where(square > 0, 1 / (square.sqrt() + eps), 0.0)

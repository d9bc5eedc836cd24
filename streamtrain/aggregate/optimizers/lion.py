"""Lion (Chen et al. 2023, algorithm 2): the sign of a mean of the gradient and its momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.optimizers.sgd import MOMENTUM
from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require_betas, require_finite
from streamtrain.job.update.optimizer import Optimizer


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion: every element moves by the rate, in the direction of a sign. One vector beside the parameters."""

    lr: float = 1e-4
    """Learning rate; a third to a tenth of AdamW's."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Weight of the momentum in the direction, and decay of the momentum."""
    weight_decay: float = 0.0
    """The part of the learning rate by which parameters shrink in each update; three to ten times AdamW's."""

    scaling: ClassVar[Literal["linear", "root"]] = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_betas("optimizer.betas", self.betas)
        require_finite("optimizer.weight_decay", self.weight_decay, positive=False)

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
        """``θ ← (1 - ελ)θ - ε·sign(β₁m + (1-β₁)g)``, then ``m ← β₂m + (1-β₂)g``."""
        beta1, beta2 = self.betas
        direction = torch.lerp(old[MOMENTUM], gradient, 1 - beta1, out=new[PARAMETERS]).sign_()
        direction.mul_(-rate).add_(old[PARAMETERS], alpha=1 - rate * self.weight_decay)
        torch.lerp(old[MOMENTUM], gradient, 1 - beta2, out=new[MOMENTUM])

"""Adagrad (Duchi et al. 2011; Deep Learning, algorithm 8.4), in `torch.optim.Adagrad`'s semantics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.optimizers.adam import inverse_root
from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require_finite
from streamtrain.job.update.optimizer import Optimizer

SUM = "sum"


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad, in `torch.optim.Adagrad`'s semantics."""

    lr: float = 0.01
    """Learning rate ε."""
    lr_decay: float = 0.0
    """The rate is divided by 1 plus this for each update that a parameter had."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""
    initial_accumulator_value: float = 0.0
    """What the sum of the gradient's squares begins with."""
    eps: float = 1e-10
    """Added to the root of the sum."""

    scaling: ClassVar[Literal["linear", "root"]] = "root"
    has_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("optimizer.eps", self.eps, positive=True)
        for name in ("lr_decay", "weight_decay", "initial_accumulator_value"):
            require_finite(f"optimizer.{name}", getattr(self, name), positive=False)

    def vectors(self) -> tuple[str, ...]:
        """The sum of squares, without what it begins with."""
        return (SUM,)

    def counts_updates(self) -> bool:
        """Only for the decay of the rate."""
        return self.lr_decay > 0

    def norm_weights(
        self,
        old: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,  # noqa: ARG002  # of the contract
    ) -> torch.Tensor:
        """``1 / (√s + eps)``."""
        return inverse_root(old[SUM] + self.initial_accumulator_value, self.eps)

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """``s ← s + g²``, ``θ ← θ - ε/(1 + n·decay)·g / (√s + eps)`` after ``n`` updates."""
        if self.weight_decay:
            gradient.add_(old[PARAMETERS], alpha=self.weight_decay)
        torch.addcmul(old[SUM], gradient, gradient, out=new[SUM])
        size = torch.add(new[SUM], self.initial_accumulator_value, out=new[PARAMETERS]).sqrt_().add_(self.eps)
        direction = gradient.div_(size)
        step = rate / (1 + updates * self.lr_decay) if self.lr_decay else rate
        if isinstance(step, torch.Tensor):
            torch.sub(old[PARAMETERS], direction * step, out=new[PARAMETERS])
        else:
            torch.add(old[PARAMETERS], direction, alpha=-step, out=new[PARAMETERS])

"""Stochastic gradient descent with momentum, in `torch.optim.SGD`'s semantics (Deep Learning, 8.3.1 – 8.3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require, require_finite, require_part
from streamtrain.job.update.optimizer import Optimizer

MOMENTUM = "momentum"


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, in `torch.optim.SGD`'s semantics, on the clipped mean gradient."""

    lr: float = 0.1
    """Learning rate ε."""
    momentum: float = 0.0
    """Momentum α; 0 is plain SGD."""
    dampening: float = 0.0
    """The gradient enters the momentum times 1 minus this, but for a parameter's first."""
    nesterov: bool = False
    """Nesterov's variant of momentum."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""

    takes_halves: ClassVar[bool] = True
    has_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_part("optimizer.momentum", self.momentum)
        require_finite("optimizer.weight_decay", self.weight_decay, positive=False)
        require_finite("optimizer.dampening", self.dampening, positive=False)
        require(
            not self.nesterov or (self.momentum > 0 and not self.dampening),
            "optimizer.nesterov",
            "a momentum above 0 with it, and no dampening",
            (self.momentum, self.dampening),
            "set optimizer.momentum or leave optimizer.nesterov off",
        )

    def vectors(self) -> tuple[str, ...]:
        """The momentum, where there is one."""
        return (MOMENTUM,) if self.momentum else ()

    def counts_updates(self) -> bool:
        """Only dampening leaves a parameter's first update alone."""
        return self.dampening > 0

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,
    ) -> None:
        """``v ← αv + (1 - dampening)·g``, ``θ ← θ - εv``, and Nesterov's variant."""
        if self.weight_decay:
            gradient.add_(old[PARAMETERS], alpha=self.weight_decay)
        direction = gradient
        if self.momentum:
            velocity = new[MOMENTUM]
            damped = gradient
            if self.dampening:
                begun = min(updates, 1) if isinstance(updates, int) else updates.clamp(max=1)
                damped = gradient.mul(1.0 - self.dampening * begun)
            torch.add(damped, old[MOMENTUM], alpha=self.momentum, out=velocity)
            direction = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        torch.add(old[PARAMETERS], direction, alpha=-rate, out=new[PARAMETERS])

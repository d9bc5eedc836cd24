"""RMSprop (Deep Learning, algorithms 8.5 and 8.6), in `torch.optim.RMSprop`'s semantics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from streamtrain.aggregate.optimizers.adam import inverse_root
from streamtrain.aggregate.optimizers.sgd import MOMENTUM
from streamtrain.aggregate.state import PARAMETERS
from streamtrain.checks import require_finite, require_part
from streamtrain.job.update.optimizer import Optimizer

SQUARE, MEAN = "square_avg", "grad_avg"


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop, in `torch.optim.RMSprop`'s semantics."""

    lr: float = 0.01
    """Learning rate ε."""
    alpha: float = 0.99
    """Decay of the running mean of the gradient's square."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.0
    """Coefficient of the L2 penalty, added to the clipped gradient."""
    momentum: float = 0.0
    """Momentum of what is divided."""
    centered: bool = False
    """Divide by the gradient's standard deviation, not by its root mean square."""

    scaling: ClassVar[Literal["linear", "root"]] = "root"
    has_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_part("optimizer.alpha", self.alpha)
        require_part("optimizer.momentum", self.momentum)
        require_finite("optimizer.eps", self.eps, positive=True)
        require_finite("optimizer.weight_decay", self.weight_decay, positive=False)

    def vectors(self) -> tuple[str, ...]:
        """The mean square, the mean where it is centered, and the momentum where there is one."""
        return (SQUARE, *((MEAN,) if self.centered else ()), *((MOMENTUM,) if self.momentum else ()))

    def counts_updates(self) -> bool:
        """Nothing is corrected for the start."""
        return False

    def norm_weights(
        self,
        old: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,  # noqa: ARG002  # of the contract
    ) -> torch.Tensor:
        """``1 / (√s + eps)``."""
        square = old[SQUARE]
        return inverse_root((square - old[MEAN].square()).clamp_(min=0) if self.centered else square, self.eps)

    def move(
        self,
        rate: float,
        gradient: torch.Tensor,
        old: Mapping[str, torch.Tensor],
        new: Mapping[str, torch.Tensor],
        updates: int | torch.Tensor,  # noqa: ARG002  # of the contract
    ) -> None:
        """``s ← αs + (1-α)g²``, ``θ ← θ - ε·g / (√s + eps)``."""
        if self.weight_decay:
            gradient.add_(old[PARAMETERS], alpha=self.weight_decay)
        torch.mul(old[SQUARE], self.alpha, out=new[SQUARE]).addcmul_(gradient, gradient, value=1 - self.alpha)
        size = new[PARAMETERS]  # memory that is written last
        if self.centered:
            mean = torch.lerp(old[MEAN], gradient, 1 - self.alpha, out=new[MEAN])
            torch.addcmul(new[SQUARE], mean, mean, value=-1.0, out=size).sqrt_()
        else:
            torch.sqrt(new[SQUARE], out=size)
        direction = gradient.div_(size.add_(self.eps))
        if self.momentum:
            direction = torch.add(direction, old[MOMENTUM], alpha=self.momentum, out=new[MOMENTUM])
        torch.add(old[PARAMETERS], direction, alpha=-rate, out=new[PARAMETERS])

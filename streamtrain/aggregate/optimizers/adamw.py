"""Adam with decoupled weight decay (Loshchilov & Hutter 2019), in `torch.optim.AdamW`'s semantics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamtrain.aggregate.optimizers.adam import Adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters by themselves, in `torch.optim.AdamW`'s semantics."""

    weight_decay: float = 0.01
    """The part of the learning rate by which parameters shrink in each update."""

    decoupled: ClassVar[bool] = True

"""The factor that losses are multiplied by so that gradients do not vanish in float16 (Micikevicius et al. 2018).

In the semantics of `torch.amp.GradScaler` with its defaults: halved at a gradient that is not finite, whose step is
left out; doubled after `EVERY` steps without one. Part of the `State`, so that all workers have the same one, and a
checkpoint has it. On any device, without waiting for it.
"""

from __future__ import annotations

import torch

FIRST = 2.0**16
"""The factor of the first step."""
LEAST, MOST = 1.0, 2.0**100
"""Its bounds."""
EVERY = 2000
"""Steps after which it grows."""


def adapt(old: torch.Tensor, new: torch.Tensor, overflowed: torch.Tensor) -> None:
    """The scaler after a step: the factor, and steps since it changed.

    Args:
        old, new: of shape (2,), float64.
        overflowed: whether the step's gradient was not finite; shape ().
    """
    grows = ~overflowed & (old[1] + 1 >= EVERY)
    factor = torch.where(overflowed, 0.5, torch.where(grows, 2.0, 1.0))
    new[0] = (old[0] * factor).clamp(LEAST, MOST)
    new[1] = torch.where(overflowed | grows, 0.0, old[1] + 1)

"""Slope and curvature where a run stands, and what a step along the negative gradient does there.

Deep Learning, equation 8.10: a step of length ε along −g is predicted to change the loss by ``ε² gᵀHg/2 − ε gᵀg``.
Where ``gᵀHg`` is large against ``gᵀg``, learning is slow however steep the slope is: ill-conditioning (8.2.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from streamtrain.landscape.lanczos import Extremes

Loss = Callable[[torch.Tensor], float]
Point = Literal["slope", "minimum", "saddle", "maximum", "plateau"]


@dataclass(frozen=True)
class Curvature:
    """At one vector, for a step of ``learning_rate`` along −g.

    Attributes:
        loss: there. squared_gradient: gᵀg. gradient_curvature: gᵀHg.
        predicted, measured: change of the loss by the step.
        best_step: ``gᵀg/gᵀHg``, the best one on the quadratic model; ``None`` where gᵀHg is not positive.
        largest_step: the largest one that still lowers the loss; ``None`` where even ``2^40 ε`` does.
    """

    learning_rate: float
    loss: float
    squared_gradient: float
    gradient_curvature: float
    predicted: float
    measured: float
    best_step: float | None
    largest_step: float | None


def curvature(
    loss: Loss, at: torch.Tensor, gradient: torch.Tensor, hessian_gradient: torch.Tensor, learning_rate: float
) -> Curvature:
    """See the module; ``hessian_gradient`` is Hg."""
    here = loss(at)
    squared, bend = float(gradient @ gradient), float(gradient @ hessian_gradient)
    return Curvature(
        learning_rate=learning_rate,
        loss=here,
        squared_gradient=squared,
        gradient_curvature=bend,
        predicted=learning_rate**2 * bend / 2 - learning_rate * squared,
        measured=loss(at - learning_rate * gradient) - here,
        best_step=squared / bend if bend > 0 else None,
        largest_step=largest_step(lambda step: loss(at - step * gradient), here, learning_rate),
    )


def largest_step(along: Callable[[float], float], here: float, first: float) -> float | None:
    """The first step beyond which the loss is no lower than here, to 1 part in 1,000; 0 where none lowers it."""
    low, high = 0.0, first
    while along(high) >= here and high > first * 2**-40:
        high /= 2
    if high <= first * 2**-40:
        return 0.0
    while along(high) < here:
        if high >= first * 2**40:
            return None
        low, high = high, 2 * high
    low = max(low, high / 2)
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if along(middle) < here else (low, middle)
    return low


def kind_of_point(gradient_norm: float, spectrum: Extremes, *, flat: float = 1e-3, level: float = 1e-3) -> Point:
    """What the point is, within stated tolerances.

    Args:
        flat: a gradient of at most this norm counts as zero; with more, the point is on a ``slope``.
        level: an eigenvalue of at most this part of the larger end's size counts as zero; where the larger end is
            itself at most this much, the point is on a ``plateau``.
    """
    if gradient_norm > flat:
        return "slope"
    size = max(abs(spectrum.smallest), abs(spectrum.largest))
    if size <= level:
        return "plateau"
    down, up = spectrum.smallest < -level * size, spectrum.largest > level * size
    return "saddle" if down and up else "maximum" if down else "minimum"

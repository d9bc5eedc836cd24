"""Slope and curvature where a run stands, and what a step along the negative gradient does there.

Deep Learning, equation 8.10: a step of length ε along −g is predicted to change the loss by ``ε² gᵀHg/2 − ε gᵀg``.
Where ``gᵀHg`` is large against ``gᵀg``, learning is slow however steep the slope is: ill-conditioning (8.2.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from streamtrain.landscape.lanczos import LEVEL, Extremes

Loss = Callable[[torch.Tensor], float]
Point = Literal["slope", "minimum", "saddle", "maximum", "plateau", "undecided"]
FLAT = 1e-3
"""Below which a gradient's norm counts as zero; see `kind_of_point`."""
NEAR, GROWTH = 64.0, 1.15
"""How far from the first guess steps are looked for closely, and how much each is longer then."""


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
    squared = float(gradient @ gradient)
    bend = float(gradient @ hessian_gradient)
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
    """The first step beyond which the loss is no lower than here, to 1 part in 1,000; 0 where none lowers it.

    Looked for from a sixty-fourth of ``first`` outward, each step 15 % longer than the one before, so that a hill on
    the way is not jumped over unless it is narrower than that; beyond 64 times ``first`` each is twice as long.
    """
    low = first / NEAR
    while along(low) >= here:
        low /= 2
        if low <= first * 2**-40:
            return 0.0
    high = GROWTH * low
    while along(high) < here:
        if high >= first * 2**40:
            return None
        low, high = high, high * (GROWTH if high < NEAR * first else 2.0)
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if along(middle) < here else (low, middle)
    return low


def kind_of_point(gradient_norm: float, spectrum: Extremes, *, scale: float = 1.0) -> Point:
    """What the point is, within stated tolerances.

    Args:
        scale: of the loss, e.g. how much it has changed since the start: a loss in other units is the same surface.

    A gradient of a norm of at most `FLAT` times the scale counts as zero; with more, the point is on a ``slope``. An
    eigenvalue of at most `LEVEL` times the larger end's size counts as zero; where both ends are at most `LEVEL` times
    the scale, the point is on a ``plateau``. An end that is not known to a third of the level decides nothing: a
    saddle's one negative eigenvalue comes up late. The point is then ``undecided``.
    """
    if gradient_norm > FLAT * scale:
        return "slope"
    size = max(abs(spectrum.smallest), abs(spectrum.largest))
    if size + max(spectrum.smallest_residual, spectrum.largest_residual) <= LEVEL * scale:
        return "plateau"
    level = LEVEL * size
    down, up = spectrum.smallest < -level, spectrum.largest > level
    if down and up:
        return "saddle"
    doubt = spectrum.largest_residual if down else spectrum.smallest_residual
    if doubt > level / 3:
        return "undecided"
    return "maximum" if down else "minimum"

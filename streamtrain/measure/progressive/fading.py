"""Exponentially fading means (Gama, Sebastião & Rodrigues 2013, *On evaluating stream learning algorithms*).

An example that lies k examples back weighs ``exp(−2k/w)``. So the mean's age is that of a window of ``w`` examples,
w/2, and so is its effective number of examples, ``(Σ wᵢ)²/Σ wᵢ²`` → w; but nothing leaves at once. All examples of a
minibatch weigh the same. Standard error: ``s √(Σ wᵢ²) / Σ wᵢ``, with s² the weighted variance, unbiased for weights
that say how much an example counts: ``Σ wᵢ(xᵢ − mean)² / (Σ wᵢ − Σ wᵢ²/Σ wᵢ)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.stored import Stored
from streamtrain.values import Moments, Risk


@dataclass(frozen=True)
class FadingMoments(Stored):
    """``weight`` is Σ wᵢ, ``squared_weight`` Σ wᵢ², ``m2`` the weighted sum of squared deviations from ``mean``."""

    weight: float = 0.0
    squared_weight: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def after(self, moments: Moments, keep: float) -> FadingMoments:
        """With a minibatch more, whose examples weigh 1; what was before weighs ``keep`` as much as it did."""
        if moments.count == 0:
            return self
        before, away = keep * self.weight, moments.mean - self.mean
        weight = before + moments.count
        return FadingMoments(
            weight,
            keep**2 * self.squared_weight + moments.count,
            self.mean + away * moments.count / weight,
            keep * self.m2 + moments.m2 + away**2 * before * moments.count / weight,
        )

    @property
    def standard_error(self) -> float:
        """See the module; NaN below two examples."""
        freedom = self.weight - self.squared_weight / self.weight if self.weight else 0.0
        return math.sqrt(self.m2 / freedom * self.squared_weight) / self.weight if freedom > 0 else math.nan


@dataclass
class Fading(Stored):
    """Loss and error, fading as a window of ``examples`` examples would forget them."""

    examples: int
    loss: FadingMoments = FadingMoments()
    error: FadingMoments = FadingMoments()

    def add(self, risk: Risk) -> None:
        """One more minibatch."""
        keep = math.exp(-2 * risk.loss.count / self.examples)
        self.loss, self.error = self.loss.after(risk.loss, keep), self.error.after(risk.error, keep)

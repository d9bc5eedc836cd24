"""Exponentially fading means (Gama, Sebastião & Rodrigues 2013, *On evaluating stream learning algorithms*).

An example that lies k examples back weighs ``exp(−2k/w)``. So the mean's age is that of a window of ``w`` examples,
w/2, and so is its effective number of examples, ``(Σ wᵢ)²/Σ wᵢ²`` → w; but nothing leaves at once. All examples of a
minibatch weigh the same. Standard error: ``√(Σ wᵢ² s²) / Σ wᵢ``, with s² the variance within the example's own
minibatch (`own_spread`): the fall of the risk is no part of it. Where examples have weights of their own, wᵢ is also
the average one of their minibatch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.measure.progressive.own_spread import variance_of_one
from streamtrain.stored import Stored
from streamtrain.values import Moments, Risk


@dataclass(frozen=True)
class FadingMoments(Stored):
    """``weight`` is Σ wᵢ, ``squared_weight`` Σ wᵢ², ``variance`` Σ wᵢ² s²."""

    weight: float = 0.0
    squared_weight: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    def after(self, moments: Moments, keep: float, last: Moments) -> FadingMoments:
        """With a minibatch more, after ``last``: its examples weigh 1, earlier ones ``keep`` as much as before."""
        if moments.count == 0:
            return self
        before = keep * self.weight
        away = moments.mean - self.mean
        weight = before + moments.weight
        squared = moments.weight**2 / moments.count
        return FadingMoments(
            weight,
            keep**2 * self.squared_weight + squared,
            self.mean + away * moments.weight / weight,
            keep**2 * self.variance + squared * variance_of_one(moments, last),
        )

    @property
    def standard_error(self) -> float:
        """See the module; NaN below two examples."""
        several = self.weight**2 > self.squared_weight
        return math.sqrt(self.variance) / self.weight if several else math.nan


@dataclass
class Fading(Stored):
    """Loss and error, fading as a window of ``examples`` examples would forget them."""

    examples: int
    loss: FadingMoments = FadingMoments()
    error: FadingMoments = FadingMoments()

    def add(self, risk: Risk, last: Risk) -> None:
        """One more minibatch, after ``last``."""
        keep = math.exp(-2 * risk.loss.count / self.examples)
        self.loss = self.loss.after(risk.loss, keep, last.loss)
        self.error = self.error.after(risk.error, keep, last.error)

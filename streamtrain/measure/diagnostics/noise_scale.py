"""Gradient noise scale: the minibatch size at which noise and signal of the gradient are equally large.

``B = tr(Σ) / |G|²``, with G the gradient of the risk and Σ the covariance of one example's gradient (McCandlish,
Kaplan, Amodei 2018, *An Empirical Model of Large-Batch Training*, equation 2.8, "simple" noise scale). Both are
estimated without bias from two sizes of minibatch (their appendix A.1): the lanes' and the whole. With mean
gradients ``g_l`` over ``n_l`` examples and ``g`` over ``N = Σ n_l`` in L lanes,

    S  = (Σ n_l |g_l|² − N |g|²) / (L − 1)        E S  = tr(Σ)
    G² = |g|² − S / N                             E G² = |G|²

also for lanes of unequal size, since ``E |g_l|² = |G|² + tr(Σ)/n_l``. A ratio of estimates is noisy and biased, so
S and G² are averaged on their own, and 1/B is the ratio of the averages. Near an optimum |G|² is not told from 0 and B
may be anything: so what has a finite error is 1/B, and B is only said to be above a value there. With weights w and
r = Σ w G² / Σ w S, the standard error of r is that of a ratio (Cochran 1977, equation 2.46),
``√(Σ w² (G² − r S)²) / Σ w S``, from the spread of the steps' own estimates.

All of it holds in any norm ``Σ w·g²`` with the same weights for all: in an optimizer's own (`Optimizer.norm_weights`)
it is the noise scale of a descent whose steps are multiplied by w.

Takes one lane's examples for independent. They are drawn without replacement, which lowers the variance by the
factor ``1 − N/examples``; dropout's noise is part of Σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamtrain.plus_minus import student_factor
from streamtrain.stored import Stored
from streamtrain.values import Norms, OwnNorms

FADE = 0.98
"""Largest weight of the past at a new estimate: a memory of about 50 estimates, and shorter while there are fewer."""
CLEARLY = 2.0
FEWEST = 4
"""Standard errors that |G|² is above 0 where it is told from it; and estimates that an error can be taken from."""


@dataclass(frozen=True)
class Noise(Stored):
    """Estimates of ``tr(Σ)`` and of ``|G|²``; the latter may be negative where noise is all there is.

    ``squared_error`` and ``inverse_error`` are the standard errors of ``|G|²`` and of 1/B; NaN of too few estimates.
    """

    trace: float
    squared_gradient: float
    squared_error: float = 0.0
    inverse_error: float = 0.0

    @property
    def inverse_scale(self) -> float:
        """1/B; NaN without any noise."""
        return self.squared_gradient / self.trace if self.trace > 0 else math.nan

    @property
    def scale(self) -> float | None:
        """B in examples; infinite where |G|² is not told from 0, ``None`` where that is not known yet."""
        if math.isnan(self.squared_error) or self.trace < 0:
            return None
        told = self.squared_gradient > CLEARLY * self.squared_error
        return self.trace / self.squared_gradient if told else math.inf

    @property
    def scale_above(self) -> float | None:
        """What B is above (two standard errors of 1/B); ``None`` where nothing can be said."""
        highest = self.inverse_scale + CLEARLY * self.inverse_error
        return 1 / highest if highest > 0 else None

    @property
    def gradient_norm(self) -> tuple[float, float]:
        """|G|, 0 where its square is estimated below 0, and how far ±1 standard error of |G|² reaches from there."""
        squared = max(self.squared_gradient, 0.0)
        error = self.squared_error
        norm = math.sqrt(squared)
        if math.isnan(error):
            return norm, math.nan
        return norm, max(math.sqrt(squared + error) - norm, norm - math.sqrt(max(squared - error, 0.0)))


def noise_of(norms: Norms | OwnNorms) -> Noise | None:
    """One step's unbiased estimates, without errors; ``None`` with fewer than two lanes that have examples."""
    if len(norms.lanes) < 2:
        return None
    examples = sum(n for n, _ in norms.lanes)
    whole = norms.whole
    trace = (sum(n * squared for n, squared in norms.lanes) - examples * whole) / (len(norms.lanes) - 1)
    return Noise(trace, whole - trace / examples, math.nan, math.nan)


@dataclass
class NoiseScale(Stored):
    """Both estimates, averaged over steps.

    Attributes:
        count: of estimates so far.
        weight, trace, squared: fading sums of the weights w, of w S and of w G².
        weights2, squared2, mixed2, trace2: fading sums of w², w² G⁴, w² G² S and w² S².
        squared_weights2: of w² G².
    """

    count: int = 0
    weight: float = 0.0
    trace: float = 0.0
    squared: float = 0.0
    weights2: float = 0.0
    squared2: float = 0.0
    mixed2: float = 0.0
    trace2: float = 0.0
    squared_weights2: float = 0.0

    def add(self, norms: Norms | OwnNorms) -> Noise | None:
        """The averages with this step's; ``None`` where it gives no estimate."""
        one = noise_of(norms)
        if one is None:
            return None
        self.count += 1
        keep = min(FADE, (self.count - 1) / self.count)
        found = one.trace
        squared = one.squared_gradient
        self.weight = keep * self.weight + 1
        self.trace = keep * self.trace + found
        self.squared = keep * self.squared + squared
        self.weights2 = keep**2 * self.weights2 + 1
        self.squared2 = keep**2 * self.squared2 + squared**2
        self.mixed2 = keep**2 * self.mixed2 + squared * found
        self.trace2 = keep**2 * self.trace2 + found**2
        self.squared_weights2 = keep**2 * self.squared_weights2 + squared
        return self.mean

    @property
    def mean(self) -> Noise:
        """Of the estimates so far, at least one."""
        mean = self.squared / self.weight
        trace = self.trace / self.weight
        if self.count < FEWEST:
            return Noise(trace, mean, math.nan, math.nan)
        # a mean takes up a part of its own deviations: n/(n − 1) with n the effective number of estimates
        number = self.weight**2 / self.weights2
        freedom = number / (number - 1) * student_factor(number) ** 2
        away = self.squared2 - 2 * mean * self.squared_weights2 + mean**2 * self.weights2
        error = math.sqrt(max(away, 0.0) * freedom) / self.weight
        if trace <= 0:
            return Noise(trace, mean, error, math.nan)
        ratio = mean / trace
        off = self.squared2 - 2 * ratio * self.mixed2 + ratio**2 * self.trace2
        return Noise(trace, mean, error, math.sqrt(max(off, 0.0) * freedom) / self.trace)

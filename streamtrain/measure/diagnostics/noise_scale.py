"""Gradient noise scale: the minibatch size at which noise and signal of the gradient are equally large.

``B = tr(Σ) / |G|²``, with G the gradient of the risk and Σ the covariance of one example's gradient (McCandlish,
Kaplan, Amodei 2018, *An Empirical Model of Large-Batch Training*, equation 2.8, "simple" noise scale). Both are
estimated without bias from two sizes of minibatch (their appendix A.1): the lanes' and the whole. With mean
gradients ``g_l`` over ``n_l`` examples and ``g`` over ``N = Σ n_l`` in L lanes,

    S  = (Σ n_l |g_l|² − N |g|²) / (L − 1)        E S  = tr(Σ)
    G² = |g|² − S / N                             E G² = |G|²

also for lanes of unequal size, since ``E |g_l|² = |G|² + tr(Σ)/n_l``. A ratio of estimates is noisy and biased, so
S and G² are averaged on their own (exponentially fading), and B is the ratio of the averages.

Takes one lane's examples for independent. They are drawn without replacement, which lowers the variance by the
factor ``1 − N/examples``; dropout's noise is part of Σ.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamtrain.stored import Stored
from streamtrain.values import Norms

FADE = 0.98
"""Weight of the past at every new estimate: a memory of about 50 estimates."""


@dataclass(frozen=True)
class Noise:
    """Estimates of ``tr(Σ)`` and of ``|G|²``; the latter may be negative where noise is all there is."""

    trace: float
    squared_gradient: float

    @property
    def scale(self) -> float | None:
        """B in examples; ``None`` where no gradient can be told from the noise yet."""
        return self.trace / self.squared_gradient if self.squared_gradient > 0 and self.trace >= 0 else None


def noise_of(norms: Norms) -> Noise | None:
    """One step's unbiased estimates; ``None`` with fewer than two lanes that have examples."""
    if len(norms.lanes) < 2:
        return None
    examples = sum(n for n, _ in norms.lanes)
    whole = norms.total.gradient
    trace = (sum(n * squared for n, squared in norms.lanes) - examples * whole) / (len(norms.lanes) - 1)
    return Noise(trace, whole - trace / examples)


@dataclass
class NoiseScale(Stored):
    """Both estimates, averaged over steps: fading sums of ``trace`` and ``squared``, and of their ``weight``."""

    trace: float = 0.0
    squared: float = 0.0
    weight: float = 0.0

    def add(self, norms: Norms) -> Noise | None:
        """The averages with this step's; ``None`` where it gives no estimate."""
        one = noise_of(norms)
        if one is None:
            return None
        self.trace = FADE * self.trace + one.trace
        self.squared = FADE * self.squared + one.squared_gradient
        self.weight = FADE * self.weight + 1
        return Noise(self.trace / self.weight, self.squared / self.weight)

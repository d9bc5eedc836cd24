"""Held-out risk against examples of one pass, as a power law: ``L(n) = floor + scale · n^(−exponent)``.

The usual form of a learning curve (Hestness et al. 2017, *Deep Learning Scaling is Predictable, Empirically*; Hoffmann
et al. 2022, equation 2). Fitted by weighted least squares: for each exponent floor and scale are linear, so only the
exponent is searched for, on a grid that is made finer three times. Many curves over the same examples at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
LEAST_POINTS = 4
"""One more than the law has numbers, so that something is left to judge the fit by."""
EXPONENTS = 0.02, 4.0
GRID, TURNS = 41, 4


@dataclass(frozen=True)
class PowerLaws:
    """Of c curves: three arrays of shape (c,). Neither floor nor scale is negative."""

    floor: Numbers
    scale: Numbers
    exponent: Numbers

    def at(self, examples: Numbers) -> Numbers:
        """Each curve at each number of examples: (c, n)."""
        return self.floor[:, None] + self.scale[:, None] * examples[None, :] ** -self.exponent[:, None]

    def reached(self, losses: Numbers) -> Numbers:
        """At how many examples each curve has its loss; infinite where it never has, or falls nowhere."""
        above = losses - self.floor
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (above / self.scale) ** (-1 / self.exponent)
        return np.where((above > 0) & (self.scale > 0), found, np.inf)

    def slopes(self, examples: Numbers) -> Numbers:
        """By how much each curve falls, at its number of examples, where that grows by a factor of e: (c,)."""
        return self.scale * self.exponent * examples**-self.exponent


def fit(examples: Numbers, losses: Numbers, weights: Numbers) -> PowerLaws:
    """The laws nearest to curves.

    Args:
        examples: (n,), above 0. losses: (c, n). weights: (n,), of the squared distances.
    """
    unit = float(examples.max())
    places = examples / unit
    low, high = (np.full(len(losses), np.log(bound)) for bound in EXPONENTS)
    for _ in range(TURNS):
        grid = np.exp(low[:, None] + (high - low)[:, None] * np.linspace(0, 1, GRID))
        floor, scale, distance = _linear(places, losses, weights, grid)
        best = distance.argmin(1)
        row = np.arange(len(losses))
        floor = floor[row, best]
        scale = scale[row, best]
        exponent = grid[row, best]
        step = (high - low) / (GRID - 1)
        low, high = np.log(exponent) - step, np.log(exponent) + step
    return PowerLaws(floor, scale * unit**exponent, exponent)


def _linear(places: Numbers, losses: Numbers, weights: Numbers, grid: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Floor, scale and weighted squared distance for each curve and exponent: (c, grid) each."""
    powers = places ** -grid[..., None]
    share = weights / weights.sum()
    mean_power = (powers * share).sum(-1)
    mean_loss = (losses * share).sum(-1)[:, None]
    away = powers - mean_power[..., None]
    spread = (share * away**2).sum(-1)
    scale = np.maximum((share * away * (losses[:, None, :] - mean_loss[..., None])).sum(-1) / spread, 0.0)
    floor = mean_loss - scale * mean_power
    through_zero = (share * powers * losses[:, None, :]).sum(-1) / (share * powers**2).sum(-1)
    scale = np.where(floor < 0, np.maximum(through_zero, 0.0), scale)
    floor = np.maximum(floor, 0.0)
    left = losses[:, None, :] - floor[..., None] - scale[..., None] * powers
    return floor, scale, (share * left**2).sum(-1)

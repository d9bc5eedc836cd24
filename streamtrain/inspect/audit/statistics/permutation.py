"""P-values by shuffling, for where a normal or χ² approximation does not hold: few examples, and rare values.

A pair of neighbours of a class that has 15 of 5,000 examples is no wonder (1 order in 22 has one), yet lies 4.5
standard deviations from the mean: the count is nearly Poisson's. What is shuffled are the values that were seen, so
ties, stretches and groups stay as they are. It costs `DRAWS` shuffles, and is done only where the approximation is
doubtful and says that something is unlikely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

DRAWS = 1999
ENOUGH = 50
"""Orders as extreme as the one found after which no more are drawn (Besag & Clifford 1991)."""
TAIL = 100
"""Most extreme draws from which the tail beyond all of them is extrapolated."""
FEW_EXAMPLES = 2000
"""Up to which no approximation is trusted."""
FEW_PAIRS = 50.0
"""Pairs of uncommon values that are expected next to each other; with fewer, their count is not normal."""
UNLIKELY, CERTAIN = 0.05, 1e-12
"""Above the one, and for few examples below the other, the approximation's p-value decides rightly, and is kept."""
FEW_OTHERS = 8
"""So many times as many values as there are uncommon ones make it worth to draw only the places of these."""
SEED = 20_080_229
"""Of the shuffles: the same data set has the same p-values every time."""

Statistic = Callable[[NDArray[np.generic]], float]


def p_value(values: NDArray[np.generic], statistic: Statistic, approximate: float, *, rare: bool) -> float:
    """Probability that a uniformly random order of ``values`` has at least the statistic that was found.

    Args:
        values: in stored order.
        statistic: distance of an order from what is expected; larger is less likely.
        approximate: the p-value of an approximation.
        rare: whether values are so rare that the approximation may be wrong by any factor.

    Returns:
        The approximation's where it can be trusted, or is large; else (1 + orders at least as extreme) / (1 + orders
        drawn). Beyond all draws, where this could not fall below 1 in 2,000, an exponential tail is fitted to the most
        extreme ones (after Knijnenburg et al. 2009, "Fewer permutations, more accurate P-values"): heavier than the
        tails of counts and normal variables.
    """
    few = len(values) <= FEW_EXAMPLES and approximate >= CERTAIN
    if approximate >= UNLIKELY or not (rare or few):
        return approximate
    generator = np.random.default_rng(SEED)
    found = statistic(values)
    drawn = np.empty(DRAWS)
    extreme = 0
    orders = _orders(values, generator)
    for number in range(DRAWS):
        drawn[number] = statistic(next(orders))
        extreme += bool(drawn[number] >= found * (1 - 1e-9))
        if extreme == ENOUGH:
            return ENOUGH / (number + 1)
    return (1 + extreme) / (1 + DRAWS) if extreme else _beyond(found, drawn)


def _orders(values: NDArray[np.generic], generator: np.random.Generator) -> Iterator[NDArray[np.generic]]:
    """Uniformly random orders of the values, each in the same array as the one before or in its own.

    Where most values are the same one, only the places of the others are drawn: a fifth of the time.
    """
    kinds, counts = np.unique(values, return_counts=True)
    common = kinds[counts.argmax()]
    others = values[values != common]
    if len(others) * FEW_OTHERS > len(values):
        while True:
            yield generator.permutation(values)
    order = np.empty_like(values)
    while True:
        order.fill(common)
        order[generator.choice(len(values), len(others), replace=False)] = others
        yield order


def has_rare_values(values: NDArray[np.generic]) -> bool:
    """Whether neighbours with uncommon values are too few for a normal approximation.

    Uncommon is all but the commonest value; k of n examples with it make some k²/n pairs of neighbours.
    """
    n = len(values)
    uncommon = n - int(np.unique(values, return_counts=True)[1].max(initial=0))
    return uncommon * uncommon / n < FEW_PAIRS


def _beyond(found: float, drawn: NDArray[np.float64]) -> float:
    """Of a statistic beyond all that were drawn: P(X > t) exp(-(found - t)/mean excess), t the ``TAIL``-th largest."""
    tail = np.sort(drawn)[-TAIL:]
    excess = float(tail.mean() - tail[0])
    least = 1 / (1 + DRAWS)
    return min(least, TAIL / DRAWS * float(np.exp(-(found - tail[0]) / excess))) if excess > 0 else least

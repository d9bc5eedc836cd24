"""Period: does the mixture come round again every so many examples?

This is what writing from many sources in turn leaves behind (a round-robin over shards): a source's examples come back
after as many others as there are sources. Each distance by itself may show little; all places of one period do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.statistics.evidence import Evidence
from streamtrain.inspect.audit.statistics.permutation import p_value

LONGEST = 64
SMALLEST_GROUP, SMALLEST_OF_SHARDS = 32, 8
"""Examples that each place of a period must have; of the period that the shards have."""
FEWEST_UNCOMMON = 20.0
"""Examples with another than the commonest value that each place must expect, for χ² to hold."""


def periodicity(name: str, ranks: NDArray[np.float64], numbers: NDArray[np.int64], shards: int) -> Evidence | None:
    """Kruskal & Wallis's test (1952) that all places of a period have one distribution, for the least likely period.

    All periods up to 64, and one of the length that the number of shards gives, as far as there are examples for them.
    The smallest of their p-values is multiplied by their number (Bonferroni).

    Args:
        ranks: of mean 0 and mean square 1.
        numbers: of every example in the stored order.
        shards: of the whole split.

    Returns:
        ``None`` where there are too few examples for any. The effect is η², the share of the ranks' variance that lies
        between the places.
    """
    periods = _periods(ranks, shards)
    if not periods:
        return None
    found = _least_likely(ranks, numbers, periods)
    period = periods[int(np.argmin(found))]
    approximate = min(1.0, len(periods) * float(found.min()))
    probability = p_value(
        ranks,
        lambda order: -float(np.log(max(_least_likely(order, numbers, periods).min(), 1e-300))),
        approximate,
        rare=False,
    )
    between = _between(ranks, numbers, period)
    says = f"{name} at the {period} places of a period: {between:.2%} of its variance between them, "
    says += f"{(period - 1) / len(ranks):.2%} expected"
    return Evidence("period", name, period, probability, between, says)


def _periods(ranks: NDArray[np.float64], shards: int) -> list[int]:
    n = len(ranks)
    uncommon = n - int(np.unique(ranks, return_counts=True)[1].max(initial=0))
    periods = list(range(2, min(LONGEST, n // SMALLEST_GROUP) + 1))
    if LONGEST < shards <= n // SMALLEST_OF_SHARDS:
        periods.append(shards)
    return [period for period in periods if uncommon / period >= FEWEST_UNCOMMON]


def _least_likely(ranks: NDArray[np.generic], numbers: NDArray[np.int64], periods: list[int]) -> NDArray[np.float64]:
    """P-value of each period."""
    from scipy.stats import chi2

    between = np.array([_between(ranks, numbers, period) for period in periods])
    return np.asarray(chi2.sf((len(ranks) - 1) * between, np.array(periods) - 1), np.float64)


def _between(ranks: NDArray[np.generic], numbers: NDArray[np.int64], period: int) -> float:
    place = numbers % period
    sizes = np.bincount(place, minlength=period)
    sums = np.bincount(place, ranks, minlength=period)
    return float((sums**2 / np.maximum(sizes, 1)).sum()) / len(ranks)

"""Serial correlation: does an example tell something about the one some places further on?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.sample import ranked
from streamtrain.inspect.audit.statistics.evidence import Evidence
from streamtrain.inspect.audit.statistics.label_runs import normal_p_value, pairs_at
from streamtrain.inspect.audit.statistics.permutation import has_rare_values, p_value

LAGS = (1, 2, 4, 16, 64, 256)


def serial_correlations(name: str, values: NDArray[np.float64], lengths: tuple[int, ...]) -> list[Evidence]:
    """Wald & Wolfowitz's test of serial correlation (1943) on ranks, at ``LAGS`` up to a quarter of a stretch.

    With z the midranks brought to mean 0 and mean square 1, S₄ = Σ z⁴ and C = Σ z_i z_{i+h} over the m pairs at
    lag h within a stretch, s couples of which share an example, a uniformly random order of n examples has
    (Moran 1948; Cliff & Ord 1981, under randomization)::

        E C   = -m / (n-1)
        Var C = m (n² - S₄)/n(n-1) + 2s (2S₄ - n²)/n(n-1)(n-2)
                + (m(m-1) - 2s) (3n² - 6S₄)/n(n-1)(n-2)(n-3) - (E C)²

    By shuffling where values are rare. The effect is C/m, the correlation.
    """
    z = ranked(values)
    n = len(values)
    fourth = float((z**4).sum())
    places = np.concatenate([np.arange(each) for each in lengths])
    rare = has_rare_values(values)
    found = []
    for lag in LAGS:
        pairs, couples = pairs_at(lengths, lag)
        if lag > min(lengths) // 4 or pairs < 20:
            break
        mean, variance = moments(n, fourth, pairs, couples)
        products = functools.partial(_products, lag=lag, within=places[lag:] >= lag)
        total = products(z)
        approximate = normal_p_value(total, mean, variance)
        distance = functools.partial(_distance, products, mean)
        probability = p_value(z, distance, approximate, rare=rare)
        says = f"{name} and that of the example {lag} further on: correlation {total / pairs:+.4f}"
        found.append(Evidence("serial correlation", name, lag, probability, total / pairs, says))
    return found


def _products(z: NDArray[Any], lag: int, within: NDArray[np.bool_]) -> float:
    """C of an order."""
    return float((z[lag:] * z[:-lag])[within].sum())


def _distance(products: Callable[[NDArray[Any]], float], mean: float, z: NDArray[Any]) -> float:
    return abs(products(z) - mean)


def moments(n: int, fourth: float, pairs: int, couples: int) -> tuple[float, float]:
    """Mean and variance of C in a uniformly random order; see above."""
    mean = -pairs / (n - 1)
    square = pairs * (n * n - fourth) / (n * (n - 1))
    square += 2 * couples * (2 * fourth - n * n) / (n * (n - 1) * (n - 2))
    apart = pairs * (pairs - 1) - 2 * couples
    square += apart * (3 * n * n - 6 * fourth) / (n * (n - 1) * (n - 2) * (n - 3))
    return mean, square - mean**2

"""Label runs: do neighbours have the same class more, or less, often than chance?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamtrain.inspect.audit.statistics.evidence import Evidence
from streamtrain.inspect.audit.statistics.permutation import has_rare_values, p_value

FEW = 25
"""Expected pairs below which their number is not taken for a normal variable."""


def label_runs(labels: NDArray[np.int64], lengths: tuple[int, ...]) -> Evidence | None:
    """Wald & Wolfowitz's runs test (1940) for k classes and several stretches.

    The number of runs is the number of stretches plus that of neighbouring pairs of different classes, so the
    pairs of equal classes J are counted. In a uniformly random order of n examples, n_c of class c, with m
    pairs of neighbours, 2s ordered couples of which share an example (Mood 1940; Barton & David 1957; for any
    set of pairs the join count of Moran 1948)::

        E J   = m a,                                    a = Σ n_c(n_c-1) / n(n-1)
        Var J = m a + 2s b + (m(m-1) - 2s) d - m²a²,    b = Σ n_c(n_c-1)(n_c-2) / n(n-1)(n-2)
                d = [Σ_{c≠e} n_c(n_c-1) n_e(n_e-1) + Σ n_c(n_c-1)(n_c-2)(n_c-3)] / n(n-1)(n-2)(n-3)

    Normal for large n; by shuffling where few equal pairs are expected or a class is rare. Two-sided.

    Returns:
        ``None`` where all labels are one class, or all different. The effect is (J - E J) / (m - E J): 1 for
        classes one after the other, 0 for a random order.
    """
    counts = np.unique(labels, return_counts=True)[1].astype(float)
    n, pairs, couples = len(labels), *pairs_at(lengths, 1)
    if pairs < 4 or len(counts) == 1 or len(counts) == n:
        return None
    mean, variance = moments(counts, n, pairs, couples)
    borders = np.cumsum(lengths)[:-1] - 1
    found = _equal_pairs(borders, labels)
    effect = (found - mean) / (pairs - mean)
    says = f"neighbours of one class: {found / pairs:.2%} of the pairs, {mean / pairs:.2%} expected"
    approximate = normal_p_value(found, mean, variance)
    rare = mean < FEW or has_rare_values(labels)
    probability = p_value(labels, lambda order: abs(_equal_pairs(borders, order) - mean), approximate, rare=rare)
    return Evidence("runs", "classes", 1, probability, effect, says)


def _equal_pairs(borders: NDArray[np.int64], labels: NDArray[Any]) -> int:
    """Neighbours of one class within a stretch."""
    equal = labels[1:] == labels[:-1]
    equal[borders] = False
    return int(equal.sum())


def pairs_at(lengths: tuple[int, ...], lag: int) -> tuple[int, int]:
    """Pairs of examples ``lag`` apart within a stretch, and couples of such pairs that share an example."""
    return sum(max(each - lag, 0) for each in lengths), sum(max(each - 2 * lag, 0) for each in lengths)


def normal_p_value(found: float, mean: float, variance: float) -> float:
    """Two-sided, of a normal variable."""
    return math.erfc(abs(found - mean) / math.sqrt(2 * variance)) if variance > 0 else 1.0


def moments(counts: NDArray[np.float64], n: int, pairs: int, couples: int) -> tuple[float, float]:
    """Mean and variance of J in a uniformly random order; see above."""
    two = counts * (counts - 1)
    three = two * (counts - 2)
    four = three * (counts - 3)
    a = float(two.sum()) / (n * (n - 1))
    b = float(three.sum()) / (n * (n - 1) * (n - 2))
    d = float(two.sum() ** 2 - (two**2).sum() + four.sum()) / (n * (n - 1) * (n - 2) * (n - 3))
    variance = pairs * a + 2 * couples * b + (pairs * (pairs - 1) - 2 * couples) * d - (pairs * a) ** 2
    return pairs * a, variance
